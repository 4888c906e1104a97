"""Exact Euclidean distance to a mask."""

from __future__ import annotations

import torch
from torch import Tensor

from medcalib.ops.inputs import check_tensor

CHUNK = 2**18  # entries minimized at a time on a CPU: the working set stays in its cache


def distance_transform(mask: Tensor) -> Tensor:
    """Distance in voxels from each voxel to the nearest True voxel of the same image: min |i - j| over mask_j.

    Shapes: mask (B, *S) bool with 2 or 3 spatial axes -> (B, *S) float32; 0 where the mask is True, inf
    everywhere in an image without a True voxel. `scipy.ndimage.distance_transform_edt(~mask)` of an image with one is
    the same.

    One axis after the other: with the squared distance f to the nearest True along the axes before, it is
    min_t f(t) + (i - t)^2 along the next (P. Felzenszwalb and D. Huttenlocher, Distance Transforms of Sampled
    Functions, Theory of Computing 2012). These are integers, exact in float32 below 2^24. Raises ValueError for a mask
    of another type or number of axes.
    """
    check_tensor("mask", mask)
    if mask.ndim not in (3, 4) or mask.dtype != torch.bool:
        raise ValueError(f"mask must be bool (B, H, W) or (B, D, H, W), got {mask.dtype} {tuple(mask.shape)}")
    # the first axis is the cheap one
    first, *others = sorted(range(1, mask.ndim), key=lambda axis: -mask.shape[axis])
    squared = _nearest_on_line(mask.movedim(first, 0)).movedim(0, first)
    for axis in others:
        lines = squared.movedim(axis, 0)
        flat = lines.flatten(1)
        width = max(1, CHUNK // len(flat)) if mask.device.type == "cpu" else max(1, flat.shape[1])
        nearest = torch.empty(flat.shape, dtype=flat.dtype, device=flat.device)
        for start in range(0, flat.shape[1], width):
            part = slice(start, start + width)
            nearest[:, part] = _nearest(flat[:, part].contiguous())
        squared = nearest.reshape(lines.shape).movedim(0, axis)
    return squared.sqrt().contiguous()


def _nearest_on_line(mask: Tensor) -> Tensor:
    """Squared distance to the nearest True along the first axis; any shift is a sum of distinct powers of two."""
    distance = torch.zeros(mask.shape, dtype=torch.float32, device=mask.device).masked_fill_(~mask, torch.inf)
    step = 1
    while step < len(mask):
        left, right = distance[:-step], distance[step:]
        torch.minimum(right, left + step, out=right)
        torch.minimum(left, right + step, out=left)
        step *= 2
    return distance.square_()


def _nearest(squared: Tensor) -> Tensor:
    """min_t squared[t] + (i - t)^2 along the first axis of `squared (N, K)`."""
    rows = squared.isfinite().any(1).nonzero()
    if not len(rows):
        return squared
    low, high = int(rows[0]), int(rows[-1]) + 1
    nearest = squared.clone()
    for shift in range(1, len(squared)):
        # looking at the largest value is dear, so not at each shift; from here on no candidate is below it
        if shift % 8 == 1 and shift**2 >= float(nearest.amax()):
            break
        candidate = squared[low:high] + shift**2
        up, down = min(high, len(squared) - shift), max(low, shift)
        if low < up:
            target = nearest[low + shift : up + shift]
            torch.minimum(target, candidate[: up - low], out=target)
        if down < high:
            target = nearest[down - shift : high - shift]
            torch.minimum(target, candidate[down - low :], out=target)
    return nearest
