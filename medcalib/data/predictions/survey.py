"""One pass over a prediction before it is scored: what its values are, without judging them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from medcalib.data.predictions.voxels import Voxels

SLAB_VALUES = 1 << 23
SUM_TOLERANCE = 1e-3
OVERSHOOT = 1e-6  # what averaging and interpolation in float32 leave beyond [0, 1]
TIE_ULPS = 8

Values = NDArray[np.float32]


@dataclass
class Survey:
    """Counts of voxels over a whole prediction.

    `low`, `high`: extreme finite values. `not_finite`: with NaN or infinity. `outside_range`: with a value beyond
    [0, 1] by more than 1e-6. `off_sum`: whose sum differs from 1 by more than the tolerance, `worst_sum` the sum
    that differs most. `zero`: all channels 0. `uniform`: all channels 1/C. `soft`: some value lies between 0 and 1.
    """

    voxels: int = 0
    low: float = float("inf")
    high: float = float("-inf")
    not_finite: int = 0
    outside_range: int = 0
    off_sum: int = 0
    worst_sum: float = 1.0
    mean_sum: float = 0.0
    zero: int = 0
    uniform: int = 0
    soft: bool = False


@dataclass(frozen=True)
class Predicted:
    """The label map that a tool would write, twice: `first` and `second` (i, j, k) uint8 class indices differ only
    where rounding decides between them (a tie)."""

    first: NDArray[np.uint8]
    second: NDArray[np.uint8]


def survey(
    voxels: Voxels, *, tolerance: float, painted: Sequence[int] | None, wants_map: bool, wants_filled: bool
) -> tuple[Survey, Predicted | None, NDArray[np.bool_] | None]:
    """Counts over all voxels, the predicted label map (`wants_map`), and where the filling of nnU-Net stands
    (`wants_filled`): background exactly 1 and all others exactly 0, or all region channels exactly 0.

    `painted` is None for softmax channels, else the class index that each region channel paints.
    """
    found = Survey()
    shape = voxels.shape
    predicted = Predicted(np.zeros(shape, np.uint8), np.zeros(shape, np.uint8)) if wants_map else None
    filled = np.zeros(shape, np.bool_) if wants_filled else None
    tie = TIE_ULPS * float(np.finfo(voxels.dtype).eps if voxels.dtype.kind == "f" else np.finfo(np.float32).eps)
    axis = voxels.slow_axis()
    for part, values in voxels.slabs(SLAB_VALUES // len(voxels.channels), axis):
        where = (*[slice(None)] * axis, part)
        others = values[1:].max(0) if len(values) > 1 else np.full(values.shape[1:], -np.inf, np.float32)
        with np.errstate(invalid="ignore", over="ignore"):  # NaN and infinity are counted
            _count(found, values, np.maximum(values[0], others), tolerance)
        if filled is not None:
            background = 1.0 if painted is None else 0.0
            filled[where] = (values[0] == background) & (others <= 0)
        if predicted is not None:
            first, second = _classes(values, tie) if painted is None else _painted(values, painted, tie)
            predicted.first[where], predicted.second[where] = first, second
    found.mean_sum /= max(1, found.voxels)
    return found, predicted, filled


def _count(found: Survey, values: Values, top: Values, tolerance: float) -> None:
    """Add a slab (C, i, j, n) and its largest values (i, j, n) to the counts."""
    found.voxels += top.size
    low, high = float(values.min()), float(top.max())
    if not (np.isfinite(low) and np.isfinite(high)):
        finite = np.isfinite(values)
        found.not_finite += int((~finite.all(0)).sum())
        low, high = (float(n) for n in (values[finite].min(), values[finite].max())) if finite.any() else (low, high)
    found.low, found.high = min(found.low, low), max(found.high, high)
    if low < -OVERSHOOT or high > 1 + OVERSHOOT:
        found.outside_range += int(((values < -OVERSHOOT) | (values > 1 + OVERSHOOT)).any(0).sum())
    found.soft = found.soft or bool(((values > 0) & (values < 1)).any())
    total = values.sum(0)
    away = np.abs(total - 1)
    found.off_sum += int((away > tolerance).sum())
    found.mean_sum += float(total.sum(dtype=np.float64))
    at = int(away.argmax())
    if away.ravel()[at] > abs(found.worst_sum - 1):
        found.worst_sum = float(total.ravel()[at])
    found.zero += int(((top == 0) & (values.min(0) == 0)).sum()) if low >= 0 and not float(top.min()) > 0 else 0
    even = 1 / len(values)
    if float(top.min()) <= even + OVERSHOOT:
        found.uniform += int(((np.abs(top - even) <= OVERSHOOT) & (away <= tolerance)).sum())


def _classes(values: Values, tie: float) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """The most probable class and, where another one comes within `tie` of it, that other."""
    first = values.argmax(0).astype(np.uint8)
    best = np.take_along_axis(values, first[None].astype(np.intp), 0)
    close = (values >= best - tie).sum(0) > 1
    second = first.copy()
    if close.any():
        column, known = values[:, close].copy(), first[close].astype(np.intp)
        np.put_along_axis(column, known[None], -np.inf, 0)
        second[close] = column.argmax(0)
    return first, second


def _painted(values: Values, painted: Sequence[int], tie: float) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Region channels above 0.5 painted over each other in their order, with the threshold moved by `tie` each way."""
    maps = []
    for threshold in (0.5 - tie, 0.5 + tie):
        drawn = np.zeros(values.shape[1:], np.uint8)
        for channel, index in zip(values, painted, strict=True):
            drawn[channel > threshold] = index
        maps.append(drawn)
    return maps[0], maps[1]
