"""The ECE across patients: values by hand, its laws, and what it is for."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from medcalib.metrics import CalibrationCounts
from medcalib.metrics.across import across_interval, across_patients, ece_across


def test_a_value_by_hand() -> None:
    """Bin 1: the others have signs +, +, + (sums 1, 4, 3). Bin 2: -, +, + (sums -1, 1, 2) times 2, 0, -1."""
    gaps = np.array([[3.0, 2.0], [0.0, 0.0], [1.0, -1.0]])
    expected = (3 + 0 + 1 + (-2 + 0 - 1)) / 20
    assert ece_across(gaps, np.array([10.0, 4.0, 6.0])) == pytest.approx(expected)


def test_equals_the_ece_where_every_patient_errs_alike() -> None:
    gaps = np.array([[3.0, -1.0], [2.0, -4.0], [1.0, -1.0]])
    assert ece_across(gaps, np.full(3, 10.0)) == pytest.approx(np.abs(gaps.sum(0)).sum() / 30)


def test_zero_on_average_for_calibrated_patients_where_the_ece_is_not() -> None:
    """Noise that is shared within a patient, too: the bins of one patient have one sign."""
    rng = np.random.default_rng(0)
    shared = rng.standard_normal((4000, 6, 1)) + 0.5 * rng.standard_normal((4000, 6, 15))
    voxels = np.full((4000, 6), 100.0)
    found = ece_across(shared, voxels)
    plain = np.abs(shared.sum(-2)).sum(-1) / voxels.sum(-1)
    assert abs(found.mean()) < 4 * found.std() / np.sqrt(4000)
    assert plain.mean() > 10 * abs(found.mean())


def test_never_above_the_truth_on_average() -> None:
    rng = np.random.default_rng(1)
    truth = np.array([2.0, -1.0, 0.2])
    gaps = truth + 2 * rng.standard_normal((4000, 5, 3))
    found = ece_across(gaps, np.full((4000, 5), 100.0))
    limit = np.abs(truth).sum() / 100
    assert found.mean() < limit + 4 * found.std() / np.sqrt(4000)
    assert found.mean() > 0.8 * limit


def test_the_interval_holds_zero_for_calibrated_patients_and_the_truth_for_others() -> None:
    rng = np.random.default_rng(2)
    held = []
    for truth in (0.0, 3.0):
        gaps = truth + rng.standard_normal((400, 8, 4))
        intervals = [across_interval(g, np.full(8, 100.0)) for g in gaps]
        held.append(np.mean([i.low - 1e-12 <= 4 * truth / 100 <= i.high for i in intervals]))
    assert all(0.9 < share <= 1 for share in held)


def test_order_of_patients_and_sign_do_not_matter() -> None:
    rng = np.random.default_rng(3)
    gaps, voxels = rng.standard_normal((7, 15)), rng.integers(1, 50, 7).astype(float)
    order = rng.permutation(7)
    first, second = across_interval(gaps, voxels), across_interval(-gaps[order], voxels[order])
    assert first == pytest.approx(second)


def test_too_few_patients_and_no_voxels_are_none() -> None:
    one = np.ones((1, 15))
    assert across_interval(one, np.ones(1)) == (None, None, None)
    two = across_interval(np.ones((2, 15)), np.full(2, 30.0))
    assert two.value == pytest.approx(0.5)
    assert (two.low, two.high) == (None, None)
    assert across_interval(np.zeros((3, 15)), np.zeros(3)) == (None, None, None)


def counts_of(confidence: float, hits: int, voxels: int) -> CalibrationCounts:
    probs = torch.tensor([1 - confidence, confidence]).expand(voxels, 2).T[None]
    labels = (torch.arange(voxels) < hits).long()[None]
    return CalibrationCounts.from_probs(probs, labels)


def test_cases_of_one_patient_count_as_one() -> None:
    """a: 2 cases of 10 voxels with gaps 8 - 6 and 8 - 9; b: gap 8 - 5; so (1 + 3) / 30."""
    counts = [counts_of(0.8, 6, 10), counts_of(0.8, 9, 10), counts_of(0.8, 5, 10)]
    found = across_patients(counts, ["a", "a", "b"])
    assert found.value == pytest.approx(4 / 30, abs=1e-6)
    apart = across_patients(counts, ["a", "b", "c"])
    assert apart.value == pytest.approx((2 - 1 + 3) / 30, abs=1e-6)
    assert apart.low is not None
    with pytest.raises(ValueError, match="zip"):
        across_patients(counts, ["a"])
