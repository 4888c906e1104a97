"""Ranks, Friedman's test and Nemenyi's critical difference, against the worked example of Demsar (JMLR 2006)."""

import math

import numpy as np
import pytest

from medcalib.metrics.ranks import block_ranks, critical_difference, friedman, groups

# J. Demsar, JMLR 7, 2006, table 6: AUC of C4.5 without and with tuning of m, cf, both; 14 data sets. The paper ranks
# the last two of `voting`, printed alike, as 2 and 3.
TABLE_6 = np.array(
    [
        [0.763, 0.768, 0.771, 0.798],
        [0.599, 0.591, 0.590, 0.569],
        [0.954, 0.971, 0.968, 0.967],
        [0.628, 0.661, 0.654, 0.657],
        [0.882, 0.888, 0.886, 0.898],
        [0.936, 0.931, 0.916, 0.931],
        [0.661, 0.668, 0.609, 0.685],
        [0.583, 0.583, 0.563, 0.625],
        [0.775, 0.838, 0.866, 0.875],
        [1.000, 1.000, 1.000, 1.000],
        [0.940, 0.962, 0.965, 0.962],
        [0.619, 0.666, 0.614, 0.669],
        [0.972, 0.981, 0.9751, 0.975],
        [0.957, 0.978, 0.946, 0.970],
    ]
)
# table 5a: q at 0.05 for 2 to 10 methods
Q = {2: 1.960, 3: 2.343, 4: 2.569, 5: 2.728, 6: 2.850, 7: 2.949, 8: 3.031, 9: 3.102, 10: 3.164}


@pytest.mark.parametrize(("methods", "q"), Q.items())
def test_critical_difference_has_the_published_quantiles(methods: int, q: float) -> None:
    found = critical_difference(methods, 14) / math.sqrt(methods * (methods + 1) / (6 * 14))
    assert found == pytest.approx(q, abs=1.1e-3)


def test_the_worked_example() -> None:
    ranks = friedman(TABLE_6, higher_is_better=True)
    assert ranks is not None
    assert ranks.mean_ranks == pytest.approx([3.143, 2.000, 2.893, 1.964], abs=6e-4)
    assert ranks.blocks == 14
    assert ranks.critical_difference == pytest.approx(1.25, abs=5e-3)
    # the paper's 9.28 has no correction for ties, which divides by 1 - sum (t^3 - t) / (N k (k^2 - 1))
    ties = (3 * (2**3 - 2) + (4**3 - 4)) / (14 * 4 * 15)
    assert ranks.statistic is not None
    assert ranks.statistic * (1 - ties) == pytest.approx(9.28, abs=0.02)


def test_lower_is_better_turns_the_ranks_around() -> None:
    up, down = (friedman(TABLE_6, higher_is_better=flag) for flag in (True, False))
    assert up is not None
    assert down is not None
    assert np.add(up.mean_ranks, down.mean_ranks) == pytest.approx([5.0] * 4)
    assert up.p == pytest.approx(down.p)


def test_ties_share_their_mean_rank() -> None:
    ranks = block_ranks(np.array([[0.1, 0.3, 0.1, 0.2]]), higher_is_better=False)
    assert ranks.tolist() == [[1.5, 4.0, 1.5, 3.0]]


def test_a_block_that_lacks_a_value_is_left_out_and_counted() -> None:
    values = TABLE_6.copy()
    values[3, 1] = np.nan
    ranks = friedman(values, higher_is_better=True)
    without = friedman(np.delete(TABLE_6, 3, 0), higher_is_better=True)
    assert ranks is not None
    assert without is not None
    assert (ranks.blocks, ranks.left_out) == (13, 1)
    assert ranks.mean_ranks == without.mean_ranks
    assert friedman(np.full((3, 2), np.nan), higher_is_better=True) is None


def test_two_methods_and_tied_methods_have_no_test() -> None:
    two = friedman(TABLE_6[:, :2], higher_is_better=True)
    assert two is not None
    assert (two.statistic, two.p, two.critical_difference) == (None, None, None)
    tied = friedman(np.ones((5, 3)), higher_is_better=True)
    assert tied is not None
    assert tied.mean_ranks == (2.0, 2.0, 2.0)
    assert tied.p is None


def test_groups_are_the_largest_sets_within_the_difference() -> None:
    assert groups([3.143, 2.000, 2.893, 1.964], 1.25) == [(3, 1, 2, 0)]
    assert groups([1.0, 1.5, 2.4, 4.0], 1.0) == [(0, 1), (1, 2)]
    assert groups([1.0, 3.0], 1.0) == []


def test_critical_difference_refuses_one_method() -> None:
    with pytest.raises(ValueError, match="2 or more methods"):
        critical_difference(1, 10)
