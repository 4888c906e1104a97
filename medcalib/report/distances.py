"""Calibration against the distance to a surface: exact sums by distance, added over cases."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import distance_transform_edt, find_objects

Array = NDArray[np.float64]
EDGES_MM = (-20.0, -14.0, -10.0, -7.0, -5.0, -3.5, -2.0, 0.0, 2.0, 3.5, 5.0, 7.0, 10.0, 14.0, 20.0)


@dataclass(frozen=True)
class DistanceSums:
    """Sums by bin of signed distance, (len(edges_mm) - 1,) float64: voxels, distance in mm, confidence minus hits."""

    edges_mm: tuple[float, ...]
    voxels: Array
    distance_mm: Array
    gap: Array

    def __add__(self, other: DistanceSums) -> DistanceSums:
        """Sums of both sets of voxels. Raises ValueError for other bins."""
        if self.edges_mm != other.edges_mm:
            raise ValueError(f"sums of different bins cannot be added: {self.edges_mm} and {other.edges_mm}")
        return DistanceSums(
            self.edges_mm,
            self.voxels + other.voxels,
            self.distance_mm + other.distance_mm,
            self.gap + other.gap,
        )


def signed_distance(mask: NDArray[np.bool_], spacing_mm: Sequence[float]) -> Array:
    """Distance in mm from each voxel of mask (*S) to the nearest voxel center on the other side; negative inside.

    No voxel has distance 0: the surface runs between voxels. Infinite where there is no other side.
    """
    if mask.all() or not mask.any():
        return np.full(mask.shape, -np.inf if mask.any() else np.inf)
    outside: Array = distance_transform_edt(~mask, sampling=spacing_mm)
    inside: Array = distance_transform_edt(mask, sampling=spacing_mm)
    return outside - inside


def sums_by_distance(
    confidence: NDArray[np.floating],
    wrong: NDArray[np.bool_],
    mask: NDArray[np.bool_],
    spacing_mm: Sequence[float],
    *,
    valid: NDArray[np.bool_] | None = None,
    edges_mm: Sequence[float] = EDGES_MM,
) -> DistanceSums:
    """Sums of one case: `confidence` and `wrong` (*S) of the top label by `signed_distance` to the surface of `mask`.

    Bins are (a, b]; voxels beyond the outermost edges and invalid ones do not count. `mask` is the predicted
    foreground for a curve on which a calibrated network stays at 0; taken from the reference, the curve is conditioned
    on the labels, and even a calibrated network looks overconfident close to the surface.
    """
    edges = tuple(float(edge) for edge in edges_mm)
    zero = np.zeros(len(edges) - 1)
    boxes = find_objects(mask.astype(np.uint8))
    if not boxes:
        return DistanceSums(edges, zero, zero, zero)
    reach = max(abs(edge) for edge in edges)
    margins = [math.ceil(reach / step) + 1 for step in spacing_mm]
    box = tuple(slice(max(s.start - m, 0), s.stop + m) for s, m in zip(boxes[0], margins, strict=True))
    distance = signed_distance(mask[box], spacing_mm)
    counted = (distance > edges[0]) & (distance <= edges[-1])
    if valid is not None:
        counted &= valid[box]
    found = distance[counted]
    place = np.searchsorted(edges, found, side="left") - 1
    gap = confidence[box][counted].astype(np.float64) - ~wrong[box][counted]

    def total(values: Array) -> Array:
        summed: Array = np.bincount(place, values, minlength=len(zero)).astype(np.float64)
        return summed

    return DistanceSums(edges, total(np.ones_like(found)), total(found), total(gap))
