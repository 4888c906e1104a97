"""Cases in memory and in folders for the tests of the maps."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from helpers import LPS
from numpy.typing import NDArray

from medcalib.data.case import Case
from medcalib.data.nifti import read_volume, write_volume
from medcalib.data.predictions import Compared, Pair
from medcalib.data.predictions.voxels import Voxels
from medcalib.report.maps.case import Request
from medcalib.report.maps.channels import Channel
from medcalib.report.maps.window import Window

NAMES = ("background", "RV", "MYO", "LV")
Array = NDArray[Any]


def compared(
    probs: Array, label: Array, *, posterior: Array | None = None, affine: Array = LPS, **options: Any
) -> Compared:
    """A pair in memory; `labelled` names the annotated classes, other options are those of `Compared`."""
    labelled = options.pop("labelled", None)
    case = Case("c1", "c1", (), labelled_classes=labelled)
    names = options.pop("names", NAMES[: len(probs)])
    voxels = Voxels(tuple(np.asarray(probs, np.float32)))
    return Compared(case, np.asarray(label, np.uint8), affine, voxels, names, posterior, **options)


def windowed(*voxels: int, channels: Sequence[Channel] = ()) -> Request:
    """A request for a window in voxels."""
    return Request(Window.of(voxels=voxels), channels=tuple(channels))


def one(k: int) -> Channel:
    """The channel of class k of `NAMES`."""
    return Channel(NAMES[k], NAMES[k], (k,), (k,))


def write_case(
    folder: Path, case: str, probs: Array, label: Array, affine: Array = LPS, names: Sequence[str] = NAMES, **more: Any
) -> Pair:
    """A case in the flat folders `pred` and `labels`; `more` goes into the sidecar."""
    write_volume(folder / "labels" / f"{case}.nii.gz", np.asarray(label, np.uint8), affine)
    write_volume(folder / "pred" / f"{case}.nii.gz", np.moveaxis(np.asarray(probs, np.float32), 0, -1), affine)
    sidecar = {"class_names": list(names), "codes": [[k] for k in range(len(names))], **more}
    (folder / "pred" / f"{case}.json").write_text(json.dumps(sidecar))
    return Pair(Case(case, case, (), folder / "labels" / f"{case}.nii.gz"), folder / "pred" / f"{case}.nii.gz")


def read_map(folder: Path, case: str, name: str) -> Array:
    """The voxels of a map."""
    return read_volume(folder / f"{case}_{name}.nii.gz", dtype=None).array
