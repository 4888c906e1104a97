"""Regions that a user marks: a folder a region, in it a mask a case, on the grid of the case's label."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medcalib.data.geometry import Affine, on_same_grid
from medcalib.data.load import read_any
from medcalib.errors import DataError

SUFFIXES = (".nii.gz", ".nii", ".mha", ".nrrd")


def mask_file(folder: Path, case_id: str) -> Path:
    """The mask `<case>.nii.gz` (or .nii, .mha, .nrrd) of a case. `DataError` when there is none."""
    for suffix in SUFFIXES:
        if (folder / f"{case_id}{suffix}").is_file():
            return folder / f"{case_id}{suffix}"
    raise DataError("missing_mask", f"{folder} holds no mask {case_id}.nii.gz; every scored case needs one")


def read_mask(path: Path, affine: Affine, shape: tuple[int, ...]) -> NDArray[np.bool_]:
    """Where the mask is not 0, (i, j, k) on the grid (`affine`, `shape`); flipped or permuted where affines prove it.

    Raises `DataError` for other grids, for volumes that are not 3-D, and for NaN or infinite values.
    """
    volume = read_any(path, dtype=None)
    if volume.array.ndim != 3:
        raise DataError("bad_shape", f"{path} has shape {volume.array.shape}; a mask is 3-D, one file a region")
    if not np.isfinite(volume.array).all():
        raise DataError("mask_not_finite", f"{path} holds NaN or infinite values; 0 is outside, anything else inside")
    moved: NDArray[Any] = on_same_grid(volume.array != 0, volume.affine, affine, shape, str(path), "the label")
    return np.ascontiguousarray(moved)
