"""Cell edges: every threshold that scores use separates exactly the probabilities that it should."""

from __future__ import annotations

import numpy as np
import pytest

from medcalib.metrics.cells import cell_of_multiple, is_point, upper_edges
from medcalib.ops.scoring import NUM_CELLS, cell_index


def samples() -> np.ndarray:
    """Float32 numbers everywhere, dense near 0 and 1, with exact binary fractions and their neighbors."""
    rng = np.random.default_rng(0)
    tiny = np.float32(2.0) ** -np.arange(1, 30, dtype=np.float32)
    grid = np.float32(np.arange(301) / 300)
    p = np.concatenate([rng.random(20000, np.float32), tiny, 1 - tiny, grid, rng.random(2000, np.float32) ** 9])
    return np.unique(np.clip(np.concatenate([p, np.nextafter(p, np.float32(0)), np.nextafter(p, np.float32(1))]), 0, 1))


def test_a_cell_lies_between_the_upper_edges_of_its_neighbor_and_itself() -> None:
    p = samples().astype(np.float64)
    cell, upper = cell_index(samples()), upper_edges()
    assert (p <= upper[cell]).all()
    assert (p[cell > 0] >= upper[cell[cell > 0] - 1]).all()
    points = is_point()[cell]
    assert (p[points] == upper[cell[points]]).all()
    assert len(np.unique(cell)) > NUM_CELLS - 301  # points k/300 that are no float32 stay empty


@pytest.mark.parametrize("k", [0, 1, 7, 75, 150, 225, 293, 300])
def test_cells_above_a_multiple_hold_exactly_what_is_larger(k: int) -> None:
    p, cell = samples(), cell_index(samples())
    above = p.astype(np.float64) * 300 > k  # exact: 24 + 9 bits
    assert ((cell > cell_of_multiple(k)) == above).all()
    at = p.astype(np.float64) * 300 == k
    assert ((cell == cell_of_multiple(k)) == at).all()


def test_there_are_as_many_points_as_multiples_and_no_more_multiples() -> None:
    assert is_point().sum() == 301
    with pytest.raises(ValueError, match=r"k must lie in 0\.\.300"):
        cell_of_multiple(301)
