"""Where the fine cells of the counts begin and end, so that a threshold on probabilities is exact."""

from __future__ import annotations

from functools import cache

import numpy as np
from numpy.typing import NDArray

from medcalib.ops.scoring import GRID, NUM_CELLS, THRESHOLD, cell_index


@cache
def upper_edges() -> NDArray[np.float64]:
    """The upper edge of each cell (NUM_CELLS,), increasing; a cell of one multiple of 1/300 ends where it begins."""
    places = 30  # finer than the finest power of two at which the first and last intervals are split
    halvings = 2.0 ** -np.arange(1, places)
    edges = np.unique(np.concatenate([np.arange(GRID + 1) / GRID, halvings, 1 - halvings, [THRESHOLD]]))
    open_cell = cell_index((edges[:-1] + edges[1:]) / 2)
    upper = np.full(NUM_CELLS, np.nan)
    np.fmax.at(upper, open_cell, edges[1:])
    upper[0] = 0.0
    for cell in np.flatnonzero(np.isnan(upper)):
        upper[cell] = upper[cell - 1]
    return upper


@cache
def cell_of_multiple(k: int) -> int:
    """The cell that holds exactly the probability k/300, for k in 0..300; all higher cells lie above it."""
    if not 0 <= k <= GRID:
        raise ValueError(f"k must lie in 0..{GRID}, got {k}")
    return 0 if k == 0 else int(np.flatnonzero(upper_edges() == k / GRID)[-1])


@cache
def is_point() -> NDArray[np.bool_]:
    """Which cells hold a single multiple of 1/300 (NUM_CELLS,)."""
    points = np.zeros(NUM_CELLS, bool)
    points[[cell_of_multiple(k) for k in range(GRID + 1)]] = True
    return points
