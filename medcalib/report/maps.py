"""Calibration maps of a volume as NIfTI on the image's own grid."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from medcalib.config.references import paired
from medcalib.config.schema import DataConfig
from medcalib.data.geometry import voxel_sizes
from medcalib.data.labels import IGNORE
from medcalib.data.nifti import write_volume
from medcalib.data.predictions import Compared, labels_for, read_pair, without_folders
from medcalib.errors import ConfigError, DataError
from medcalib.files import write_json
from medcalib.ops import window_mean

WINDOW_MM = 9.0
INDEX = "maps.json"
TEXT = {
    "confidence": "largest class probability, 0 to 1",
    "error": "1 where the most probable class is not the reference",
    "gap": "mean confidence minus accuracy in a window around the voxel: above 0 is overconfident",
    "true_gap": "confidence minus the known posterior of the predicted class (phantoms)",
    "label": "reference as class indices, 255 ignored",
    "prediction": "most probable class",
}


def write_maps(
    predictions: Path,
    labels: Path,
    out: Path,
    *,
    data: DataConfig | None = None,
    window_mm: float = WINDOW_MM,
    assume_logits: bool = False,
    assume_orientation: bool = False,
) -> dict[str, Any]:
    """Write `<case>_{confidence,error,gap,...}.nii.gz` for every pair and `maps.json`; returns the latter.

    `labels` is a dataset folder when `data` says how to read it, else a flat folder of `<case>.nii.gz`.
    `assume_logits`, `assume_orientation`: see `read_pair`.
    """
    if not window_mm > 0:
        raise ConfigError(f"window_mm must be positive, got {window_mm}")
    if out.resolve() in (predictions.resolve(), labels.resolve()):
        raise ConfigError(f"{out} is a folder that is read from; choose another one for the maps")
    assumed = {"assume_logits": assume_logits, "assume_orientation": assume_orientation}
    pairs, refused, _ = paired(predictions, labels, data)
    done = []
    for pair in pairs:
        try:
            label_map = labels_for(pair.prediction, None if data is None else data.label_map)
            with read_pair(pair, label_map, **assumed) as compared:
                maps = maps_of(compared, window_mm)
        except DataError as error:
            refused.append({"case": pair.case.id, "reason": error.reason, "message": str(error)})
            continue
        for name, volume in maps.items():
            write_volume(out / f"{pair.case.id}_{name}.nii.gz", volume, compared.affine)
        done.append(pair.case.id)
    private = [{**entry, "message": without_folders(entry["message"], predictions, labels)} for entry in refused]
    index = {"cases": done, "refused": private, "window_mm": window_mm, "maps": TEXT}
    write_json(out / INDEX, index)
    return index


def maps_of(compared: Compared, window_mm: float = WINDOW_MM) -> Mapping[str, NDArray[Any]]:
    """The maps of one case by name, each (i, j, k); ignored voxels are 0 in error and gap.

    Raises `DataError` (region_probabilities) for channels that are independent regions.
    """
    probs = compared.probs
    predicted = probs.argmax(0).astype(np.uint8)
    confidence = probs.max(0)
    valid = compared.label != IGNORE
    wrong = (predicted != compared.label) & valid
    size = window_voxels(voxel_sizes(compared.affine), window_mm)
    difference = torch.from_numpy(confidence - (~wrong))[None, None]
    gap = window_mean(difference, size, torch.from_numpy(valid)[None])[0, 0].nan_to_num(0.0).numpy()
    maps: dict[str, NDArray[Any]] = {
        "confidence": confidence,
        "error": wrong.astype(np.uint8),
        "gap": np.where(valid, gap, 0).astype(np.float32),
        "label": compared.label,
        "prediction": predicted,
    }
    if compared.posterior is not None:
        true = np.take_along_axis(compared.posterior, predicted[None].astype(np.int64), 0)[0]
        maps["true_gap"] = (confidence - true).astype(np.float32)
    return maps


def window_voxels(spacing_mm: Sequence[float], window_mm: float) -> tuple[int, ...]:
    """The odd number of voxels per axis that comes closest to `window_mm`: thick slices stay alone."""
    return tuple(max(1, 2 * round((window_mm / edge - 1) / 2) + 1) for edge in spacing_mm)
