"""Intervals over patients: repeatable, around the value, with the coverage they promise, or absent."""

from __future__ import annotations

import numpy as np
import pytest

from medcalib.metrics.intervals import Interval, of_ece, of_mean, of_means, over_patients

NOTHING = Interval(None, None)
RNG = np.random.default_rng(0)


@pytest.mark.parametrize("patients", [0, 1, 2])
def test_fewer_than_three_patients_have_no_interval(patients: int) -> None:
    assert of_mean(np.ones(patients), np.ones(patients)) == NOTHING
    assert of_ece(np.ones((patients, 5)), np.ones((patients, 5))) == NOTHING


def test_a_patient_without_a_value_does_not_count() -> None:
    assert of_mean(np.array([1.0, 2, 0]), np.array([1.0, 1, 0])) == NOTHING
    values = RNG.random(12)
    with_absent = of_mean(np.append(values, 0.0), np.append(np.ones(12), 0.0))
    assert with_absent == of_mean(values, np.ones(12))


def test_the_interval_is_around_the_mean_and_repeats_to_the_bit() -> None:
    values = RNG.random(20)
    found = of_mean(values, np.ones(20))
    assert found == of_mean(values, np.ones(20))
    assert found.low < values.mean() < found.high
    half = 1.96 * values.std(ddof=1) / np.sqrt(20)
    assert (found.high - found.low) / 2 == pytest.approx(half, rel=0.2)


def test_the_interval_moves_and_stretches_with_the_values() -> None:
    values = RNG.random(15)
    base, moved = of_mean(values, np.ones(15)), of_mean(3 * values + 7, np.ones(15))
    assert moved == pytest.approx((3 * base.low + 7, 3 * base.high + 7))


def test_patients_are_resampled_whole() -> None:
    """Ten copies of each patient's value do not make the interval narrower."""
    values = RNG.random(15)
    assert of_mean(10 * values, np.full(15, 10.0)) == pytest.approx(of_mean(values, np.ones(15)))


def test_patients_who_are_all_alike_have_a_point() -> None:
    assert of_mean(np.full(8, 0.25), np.ones(8)) == pytest.approx((0.25, 0.25))


def test_the_interval_covers_the_truth_as_often_as_it_says() -> None:
    """Of 100 draws of 25 normal patients about 93 to 95 intervals cover the mean; fewer than 85 has odds below 1e-3."""
    draws = np.random.default_rng(1).normal(2.0, 1.0, (100, 25))
    found = [of_mean(draw, np.ones(25)) for draw in draws]
    assert sum(i.low <= 2.0 <= i.high for i in found) >= 85
    assert sum(i.low <= 2.4 <= i.high for i in found) < 85


def test_of_ece_adds_gaps_before_their_absolute_value() -> None:
    """Two patients off by +0.1 and -0.1 in one bin are calibrated together; in two bins they are not."""
    gaps = np.array([[1.0, 0.0], [-1.0, 0.0]] * 3)
    voxels = np.full((6, 2), 5.0)
    assert of_ece(gaps, voxels).low == pytest.approx(0, abs=1e-12)
    apart = of_ece(np.abs(gaps), voxels)
    assert apart == pytest.approx((0.1, 0.1))


def test_a_statistic_that_is_never_finite_has_no_interval() -> None:
    assert over_patients(lambda indices: np.full(indices.shape[:-1], np.nan), 5) == NOTHING


def test_many_scores_at_once_have_the_intervals_of_each() -> None:
    """Also with patients who lack some of the scores, and for a score that few or none have."""
    rng = np.random.default_rng(3)
    counts = rng.integers(1, 4, (130, 12)).astype(float)
    counts[10:20, 3] = 0
    counts[20, 2:] = 0
    counts[21] = 0
    sums = rng.random((130, 12)) * counts
    found = of_means(sums, counts)
    for row in (0, 9, 10, 19, 22, 129):
        single = of_mean(sums[row], counts[row])
        assert single.low is not None
        assert found[row] == single
    assert found[20] == found[21] == (None, None)
    fewer = np.delete(np.arange(12), 3)
    assert found[15] == of_mean(sums[15, fewer], counts[15, fewer])


def test_a_score_that_all_patients_share_does_not_spoil_the_others() -> None:
    """BCa is undefined where all are alike: that score gets the percentile interval, the others keep theirs."""
    rng = np.random.default_rng(4)
    sums = np.stack([np.full(8, 0.5), rng.random(8)])
    found = of_means(sums, np.ones((2, 8)))
    assert found[0] == (0.5, 0.5)
    assert found[1] == of_mean(sums[1], np.ones(8))


def test_an_ece_near_0_gets_an_interval_with_a_width() -> None:
    """It lies below all of its resamples, and BCa would give the lowest of them twice."""
    gaps = np.array([[50.0, -20.0], [-50.0, 20.0], [48.0, -21.0], [-48.0, 21.0]])
    low, high = of_ece(gaps, np.full((4, 2), 1000.0))
    assert low == 0
    assert high is not None
    assert high > 0.02
