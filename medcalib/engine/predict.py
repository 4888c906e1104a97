"""Probabilities of a trained run on the images' own grids."""

from __future__ import annotations

import logging
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn
from tqdm import tqdm

import medcalib
from medcalib.calibrators import Calibrator
from medcalib.config import RunConfig
from medcalib.data.load import LoadedCase, load_case
from medcalib.data.predictions import INDEX, remove_prediction, without_folders, write_prediction
from medcalib.data.transforms import Preprocess, to_native
from medcalib.distributed import resolve_device
from medcalib.engine.calibrate import load_for
from medcalib.engine.inference import window_logits
from medcalib.engine.loader import preprocess_of
from medcalib.engine.run import Weights, cases_of, load_model, open_run
from medcalib.errors import ConfigError, DataError
from medcalib.files import read_json, write_json

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Predictor:
    """A trained network with everything between a loaded case and its probabilities."""

    config: RunConfig
    model: nn.Module
    preprocess: Preprocess
    device: torch.device
    calibrator: Calibrator | None = None

    def probs(self, loaded: LoadedCase) -> NDArray[np.float32]:
        """Class probabilities (C, i, j, k) on the grid of the case's image."""
        item = self.preprocess(loaded)
        logits = window_logits(self.model, item["image"], self.config, self.device)
        native = torch.from_numpy(to_native(logits, item["affine"], loaded.affine, loaded.image.shape[1:]))
        if self.calibrator is not None:
            native = self.calibrator(native[None])[0]
        probs: NDArray[np.float32] = native.softmax(0).numpy()
        return probs


def predict(
    run: Path,
    out: Path,
    *,
    split: str = "test",
    data: str | None = None,
    device: str = "auto",
    calibrator: Path | None = None,
    weights: Weights = "best",
) -> dict[str, Any]:
    """Predict the cases of one split of the run into `out`; returns the index that is written there.

    `weights`: "best" by validation Dice, or "last" (see `load_model`).
    `calibrator` is a file that `calibrate` wrote for this run; cases that it was fitted on are refused. A case whose
    files are refused is recorded with its reason, the others go on.
    """
    config = open_run(run, data)
    cases = cases_of(run, config, split)
    chosen = resolve_device(device)
    model, entry = load_model(run, config, chosen, weights)
    ids = [case.id for case in cases]
    fitted = None if calibrator is None else load_for(run, calibrator, entry["sha256"], ids)
    predictor = Predictor(config, model, preprocess_of(config), chosen, fitted)
    method = method_of(config, fitted) | {
        "weights": weights,
        "weights_sha256": entry["sha256"],
        "epoch": entry["epoch"],
    }
    software = f"medcalib {medcalib.__version__}"
    source = {"dataset": config.name, "method": method, "software": software}
    index: dict[str, Any] = {**source, "split": split, "cases": ids, "refused": []}
    _claim(out, index)
    for case in tqdm(cases, "predict", leave=False, disable=not sys.stderr.isatty()):
        try:
            remove_prediction(out, case)  # what an earlier try wrote must not be scored if this one is refused
            loaded = load_case(case, config.data.label_map, nonfinite=config.data.nonfinite, with_label=False)
            write_prediction(out, case, predictor.probs(loaded), loaded.affine, config.data.label_map, source)
        except DataError as error:
            log.warning("refused: %s", error)
            message = without_folders(str(error), config.root)
            index["refused"].append({"case": case.id, "reason": error.reason, "message": message})
    write_json(out / INDEX, index)
    return index


def method_of(config: RunConfig, calibrator: Calibrator | None = None) -> dict[str, Any]:
    """The name of a method in tables, and every setting that made it; no path, since results travel."""
    settings = config.model_dump(mode="json", include={"loss", "model", "train", "preprocess", "augment", "predict"})
    if calibrator is None:
        return {"name": config.loss.name, **settings}
    scores = {key: calibrator.facts[key] for key in ("before", "after")}
    parameters = {key: value.tolist() for key, value in calibrator.state_dict().items()}
    repaired = {"name": calibrator.name, **parameters, "fitted_on": len(calibrator.facts["cases"]), **scores}
    return {"name": f"{config.loss.name} + {calibrator.name}", **settings, "calibrator": repaired}


def _claim(out: Path, index: dict[str, Any]) -> None:
    """Write the index first, so that a crash leaves missing cases known; refuse a folder of other predictions."""
    if (out / INDEX).is_file():
        before = read_json(out / INDEX)
        if any(before.get(key) != index[key] for key in ("method", "split", "dataset")):
            raise ConfigError(f"{out} holds predictions of another run or split; choose another --out")
    write_json(out / INDEX, index)
