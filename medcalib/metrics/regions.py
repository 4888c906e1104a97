"""The regions that scores are made over. The region is part of a score's name: 90-fold between two is common."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.ndimage import distance_transform_edt, find_objects
from torch import Tensor

__all__ = ["BOUNDARY_MM", "REGIONS", "REGION_TEXT", "near_surface"]

BOUNDARY_MM = 3.0  # two voxels in the plane of a cardiac MR, three of BraTS, four of an abdominal CT
_CHUNK = 1 << 21  # voxels of which distances are held at a time


class Voxels(NamedTuple):
    """What a region may look at, (n,) each: labels, whether foreground is predicted, whether a surface is near.

    The last one is `boundary`.
    """

    labels: Tensor
    predicted: Tensor
    boundary: Tensor


REGIONS: dict[str, Callable[[Voxels], Tensor]] = {
    "all": lambda at: torch.ones_like(at.predicted),
    "foreground": lambda at: (at.labels > 0) | at.predicted,
    "gt_foreground": lambda at: at.labels > 0,
    "pred_foreground": lambda at: at.predicted,
    "boundary": lambda at: at.boundary,
}
REGION_TEXT = {
    "all": "every valid voxel; easy background dominates",
    "foreground": "voxels that are foreground in the reference or in the prediction; it holds every missed voxel but "
    "no correct background, so even a perfectly calibrated network looks overconfident here",
    "gt_foreground": "voxels that are foreground in the reference (the papers' choice); hides false positives",
    "pred_foreground": "voxels predicted as foreground; the choice does not depend on the reference, so a perfectly "
    "calibrated network scores 0 here; hides missed voxels",
    "boundary": "voxels within boundary_mm of a surface between two labels of the reference, on both sides",
}
MASK_TEXT = "a mask of the user's"


def near_surface(
    labels: Tensor, spacing_mm: Sequence[float], width_mm: float = BOUNDARY_MM, ignore_index: int | None = None
) -> Tensor:
    """Which voxels (*S) bool lie within `width_mm` of a surface between labels (*S), measured between centers.

    Surface voxels are those with a face neighbor of another label, on both sides; the edge of the volume and
    ignored voxels make no surface. Distances are exact (scipy's Euclidean distance transform) and in mm. Empty where
    there is one label only. The volume is taken in chunks along its last axis, each with the slices within reach,
    so that memory is bounded. Raises ValueError for a negative width.
    """
    if not 0 <= width_mm < math.inf:
        raise ValueError(f"the boundary's width must be 0 mm or more, got {width_mm}")
    check_spacing(spacing_mm, labels.shape)
    surface = _surface(labels.numpy(), ignore_index)
    near = np.zeros(surface.shape, bool)
    limit = width_mm * (1 + 1e-9)  # a distance of whole voxels is not lost to rounding
    reach = [math.floor(limit / step) for step in spacing_mm]
    depth = max(1, _CHUNK // max(1, math.prod(surface.shape[:-1])))
    for start in range(0, surface.shape[-1], depth):
        wanted = slice(start, min(start + depth, surface.shape[-1]))
        seen = slice(max(wanted.start - reach[-1], 0), wanted.stop + reach[-1])
        found = find_objects(surface[..., seen].astype(np.uint8))
        if not found:
            continue
        box = tuple(slice(max(s.start - r, 0), s.stop + r) for s, r in zip(found[0], reach, strict=True))
        chunk = surface[..., seen][box]
        inside = distance_transform_edt(~chunk, sampling=spacing_mm) <= limit
        near[..., seen][box] |= inside
    return torch.from_numpy(near)


def check_spacing(spacing_mm: Sequence[float], shape: Sequence[int]) -> None:
    """Refuse sizes of voxels that are not one positive number of mm for each axis of labels of `shape`: ValueError."""
    if len(spacing_mm) != len(shape):
        raise ValueError(
            f"expected spacing_mm with {len(shape)} numbers, one for each axis of labels {tuple(shape)} (which have "
            f"neither batch nor channel axis), got {tuple(spacing_mm)}"
        )
    if not all(0 < step < math.inf for step in spacing_mm):
        raise ValueError(f"spacing_mm must hold positive sizes of a voxel in mm, got {tuple(spacing_mm)}")


def _surface(labels: NDArray[np.integer], ignore_index: int | None) -> NDArray[np.bool_]:
    surface = np.zeros(labels.shape, bool)
    for axis in range(labels.ndim):
        first, second = (np.moveaxis(labels, axis, 0)[part] for part in (slice(None, -1), slice(1, None)))
        differs = first != second
        if ignore_index is not None:
            differs &= (first != ignore_index) & (second != ignore_index)
        view = np.moveaxis(surface, axis, 0)
        view[:-1] |= differs
        view[1:] |= differs
    return surface
