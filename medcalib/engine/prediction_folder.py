"""A folder of predictions, written case by case: its index first, what is refused with the reason."""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

import medcalib
from medcalib.data.case import Case
from medcalib.data.geometry import Affine
from medcalib.data.labels import LabelMap
from medcalib.data.predictions import INDEX, remove_prediction, without_folders, write_prediction
from medcalib.errors import ConfigError, DataError
from medcalib.files import make_folder, read_json, refuse_links_out, write_json

log = logging.getLogger(__name__)


class Prediction(NamedTuple):
    """Probabilities (C, i, j, k) on the grid of `affine`, and the classes."""

    probs: NDArray[np.float32]
    affine: Affine
    label_map: LabelMap


def write_predictions(
    out: Path,
    source: Mapping[str, Any],
    split: str | None,
    cases: Iterable[Case],
    predicted: Callable[[Case], Prediction],
    folders: Iterable[Path],
    what: str,
) -> dict[str, Any]:
    """Write what `predicted` makes of every case into `out`; returns the index that is written there.

    `source` (dataset, method) goes into the index and every sidecar. A case whose files are refused is recorded
    without the names of `folders`; the others go on. Raises `ConfigError` for a folder of other predictions, or with
    a link that leads out of it.
    """
    told = {**source, "software": f"medcalib {medcalib.__version__}"}
    listed = list(cases)
    index: dict[str, Any] = {**told, "split": split, "cases": [case.id for case in listed], "refused": []}
    make_folder(out)
    refuse_links_out(out)
    _claim(out, index)
    for case in tqdm(listed, what, leave=False, disable=not sys.stderr.isatty()):
        try:
            remove_prediction(out, case)  # what an earlier try wrote must not be scored if this one is refused
            write_prediction(out, case, *predicted(case), told)
        except DataError as error:
            message = without_folders(str(error), *folders, *(path.parent for path in case.images))
            log.warning("refused %s: %s", case.id, message)
            index["refused"].append({"case": case.id, "reason": error.reason, "message": message})
    write_json(out / INDEX, index)
    return index


def _claim(out: Path, index: dict[str, Any]) -> None:
    """Write the index first, so that a crash leaves missing cases known; refuse a folder of other predictions."""
    if (out / INDEX).is_file():
        before = read_json(out / INDEX)
        unlike = [key for key in ("method", "split", "dataset") if before.get(key) != index[key]]
        if unlike:
            raise ConfigError(
                f"{out} holds predictions of another run or split: they differ in {', '.join(unlike)}; choose another "
                "--out"
            )
    write_json(out / INDEX, index)
