"""Surface distances in mm, computed by MONAI; here only units and empty masks are settled."""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterable, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.ndimage import find_objects

from medcalib.metrics.regions import check_spacing

__all__ = ["TOLERANCE_MM", "hd95_mm", "surface_dice"]

TOLERANCE_MM = 1.0
Box = tuple[slice, ...]


def box_around(boxes: Iterable[Box | None], shape: Sequence[int]) -> Box:
    """The smallest box that holds these boxes, of `find_objects`, and one voxel on each side; without any, none.

    `shape` is that of the volume.
    """
    kept = [box for box in boxes if box is not None]
    if not kept:
        return tuple(slice(0, 0) for _ in shape)
    starts = [max(min(box[i].start for box in kept) - 1, 0) for i in range(len(shape))]
    stops = [max(box[i].stop for box in kept) + 1 for i in range(len(shape))]
    return tuple(slice(start, stop) for start, stop in zip(starts, stops, strict=True))


def hd95_mm(predicted: NDArray[np.bool_], reference: NDArray[np.bool_], spacing_mm: Sequence[float]) -> float:
    """95th percentile of the symmetric surface distance between two masks, in mm.

    Shapes: predicted (i, j, k) bool, reference (i, j, k) bool. NaN when either mask is empty: there is no distance to
    nothing (and 0 would call a miss perfect).
    """
    from monai.metrics import compute_hausdorff_distance

    check_spacing(spacing_mm, predicted.shape)
    if not predicted.any() or not reference.any():
        return float("nan")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        distance = compute_hausdorff_distance(
            *_cropped(predicted, reference),
            include_background=True,
            percentile=95,
            spacing=[float(step) for step in spacing_mm],
        )
    return float(distance)


def surface_dice(
    predicted: NDArray[np.bool_],
    reference: NDArray[np.bool_],
    spacing_mm: Sequence[float],
    tolerance_mm: float = TOLERANCE_MM,
) -> float:
    """Share of the surface voxels of both masks that lie within `tolerance_mm` of the other's surface, in [0, 1].

    Shapes: predicted (i, j, k) bool, reference (i, j, k) bool. NaN when both masks are empty, 0 when one is, as Dice.
    Voxels of the surface are counted (MONAI without subvoxels).

    Reference: S. Nikolov et al., J. Medical Internet Research 2021 (surface Dice). Raises ValueError for masks of other
    shapes and for a spacing that is none.
    """
    from monai.metrics import compute_surface_dice

    check_spacing(spacing_mm, predicted.shape)
    if not 0 <= tolerance_mm < math.inf:
        raise ValueError(f"the tolerance of the surface Dice must be 0 mm or more, got {tolerance_mm}")
    if not predicted.any() and not reference.any():
        return float("nan")
    if not predicted.any() or not reference.any():
        return 0.0
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        share = compute_surface_dice(
            *_cropped(predicted, reference),
            [tolerance_mm],
            include_background=True,
            spacing=[float(step) for step in spacing_mm],
        )
    return float(share)


def _cropped(predicted: NDArray[np.bool_], reference: NDArray[np.bool_]) -> tuple[torch.Tensor, torch.Tensor]:
    """Both masks as (1, 1, *S) float32 in the box around them, a voxel wider: surfaces end where the mask does."""
    box = box_around(find_objects((predicted | reference).view(np.uint8)), predicted.shape)
    first, second = (torch.from_numpy(np.ascontiguousarray(m[box]))[None, None].float() for m in (predicted, reference))
    return first, second
