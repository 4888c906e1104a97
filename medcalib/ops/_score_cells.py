"""Fine cells of probabilities, and sums of them in fixed point: what every implementation of the scorer agrees on."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

GRID = 300  # common multiple of 10, 12, 15, 20, 25, 30, 50, 60, 75, 100 bins
THRESHOLD = float(np.float32(1e-3))  # of the thresholded scores (TCECE, TACE): only p > THRESHOLD counts
_TAIL = 16  # cells into which the last interval is split, and the first but for the threshold
_HEAD = _TAIL + 1
_FIRST_EXPONENT = 9  # 2^-9 < 1/300 < 2^-8
NUM_CELLS = 1 + _HEAD + (2 * GRID - 3) + _TAIL + 1
FIRST_ABOVE_THRESHOLD = _HEAD - 1  # the lowest cell of p > THRESHOLD, which lies in [2^-10, 2^-9)
_PLACES, _LIMB = 48, 24


def cell_index(p: NDArray[np.floating]) -> NDArray[np.int64]:
    """Fine cell of each probability in [0, 1], increasing in p. Exact for float32 (24 + 9 bits fit float64)."""
    scaled = p.astype(np.float64) * GRID
    floor = np.floor(scaled)
    cell: NDArray[np.int64] = (2 * floor + (scaled != floor)).astype(np.int64) + (_HEAD - 1)
    first, last = cell == _HEAD, cell == 2 * GRID - 1 + _HEAD - 1
    cell[first] = _TAIL - _halvings(p[first]) + (p[first] > THRESHOLD)
    cell[last] = 2 * GRID - 2 + _HEAD + _halvings(1 - p[last])
    cell[p == 0] = 0
    cell[p == 1] = NUM_CELLS - 1
    return cell


def _halvings(small: NDArray[np.floating]) -> NDArray[np.integer]:
    """The s of which a number in (0, 1/300) lies in [2^-(9+s), 2^-(8+s)), at most _TAIL - 1."""
    step: NDArray[np.integer] = np.clip(1 - np.frexp(small)[1] - _FIRST_EXPONENT, 0, _TAIL - 1)
    return step


def bin_of_cell(bins: int, edges: str) -> NDArray[np.int64]:
    """For each fine cell the equal-width bin it belongs to. `edges`: "right" is (a, b], "left" is [a, b).

    0 lies in the first bin and 1 in the last under both rules. `bins` must divide 300.
    """
    if not isinstance(bins, int) or bins < 1 or GRID % bins:
        allowed = [n for n in range(1, GRID + 1) if GRID % n == 0]
        raise ValueError(f"bins must be one of {allowed}, got {bins!r}")
    if edges not in ("right", "left"):
        raise ValueError(f"edges must be 'right' or 'left', got {edges!r}")
    uniform = np.arange(2 * GRID + 1)  # even: on the edge k/300; odd: between edges
    k, between = uniform // 2, uniform % 2 == 1
    width = GRID // bins
    on_edge = np.maximum(-(-k // width) - 1, 0) if edges == "right" else np.minimum(k // width, bins - 1)
    of_uniform = np.where(between, k // width, on_edge)
    inner = of_uniform[2 : 2 * GRID - 1]
    head, tail = np.full(_HEAD, of_uniform[1]), np.full(_TAIL, of_uniform[2 * GRID - 1])
    return np.concatenate([of_uniform[:1], head, inner, tail, of_uniform[-1:]])


def limbs(values: NDArray[np.floating]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Nonnegative values below 2^14 as (high, low) limbs of a fixed point with 48 binary places."""
    scaled = np.rint(values.astype(np.float64) * 2.0**_PLACES).astype(np.int64)
    return scaled >> _LIMB, scaled & ((1 << _LIMB) - 1)


def from_limbs(high: Tensor, low: Tensor) -> Tensor:
    """The float64 value of summed limbs."""
    return high.double() * 2.0 ** (_LIMB - _PLACES) + low.double() * 2.0**-_PLACES
