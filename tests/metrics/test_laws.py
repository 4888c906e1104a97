"""Laws of every number that a region has: order, merging, coarsening, and other libraries where those are right."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch
from helpers import smooth_case
from hypothesis import given, settings
from hypothesis import strategies as st

from medcalib.metrics import CalibrationCounts, RegionScores, score_case
from medcalib.metrics.numbers import region_numbers
from medcalib.metrics.slabs import winner
from medcalib.metrics.squared import rms_calibration_error
from medcalib.metrics.thresholded import thresholded_ece

NAMES = ("background", "a", "b", "c")
OPTIONS: dict[str, Any] = {"case_id": "x", "class_names": NAMES, "distances": False, "regions": ["all", "foreground"]}


def regions(seed: int) -> dict[str, RegionScores]:
    return dict(score_case(*smooth_case(seed, shape=(12, 10, 8)), **OPTIONS).regions)


def test_the_order_of_voxels_changes_no_number() -> None:
    probs, labels = smooth_case(0)
    order = torch.randperm(labels.numel(), generator=torch.Generator().manual_seed(0))
    shuffled = probs.reshape(4, -1)[:, order].reshape(probs.shape), labels.reshape(-1)[order].reshape(labels.shape)
    for name, region in score_case(probs, labels, **OPTIONS).regions.items():
        other = score_case(*shuffled, **OPTIONS).regions[name]
        assert region_numbers(other, NAMES, 15, "right") == region_numbers(region, NAMES, 15, "right")


@settings(max_examples=10, deadline=None)
@given(order=st.permutations(range(4)), cut=st.integers(1, 3))
def test_the_order_and_grouping_of_merging_changes_no_number(order: list[int], cut: int) -> None:
    every = [regions(seed)["foreground"] for seed in range(4)]
    whole = every[0] + every[1] + every[2] + every[3]
    groups = [[every[k] for k in order[:cut]], [every[k] for k in order[cut:]]]
    left, right = (sum_of(group) for group in groups)
    assert region_numbers(left + right, NAMES, 15, "right") == region_numbers(whole, NAMES, 15, "right")


def sum_of(parts: list[RegionScores]) -> RegionScores:
    total = parts[0]
    for part in parts[1:]:
        total = total + part
    return total


@pytest.mark.parametrize("chain", [(300, 150, 75, 25, 5, 1), (300, 100, 50, 10, 2), (300, 60, 20, 4)])
def test_joining_bins_never_enlarges_a_calibration_error(chain: tuple[int, ...]) -> None:
    counts = CalibrationCounts.from_probs(*(t[None] for t in smooth_case(1, sharpness=6.0)))
    slack = 1e-14
    for fine, coarse in pairwise(chain):
        assert counts.ece(coarse) <= counts.ece(fine) + slack
        assert counts.mce(coarse) <= counts.mce(fine) + slack
        assert (thresholded_ece(counts, coarse) <= thresholded_ece(counts, fine) + slack).all()
        errors = [float(rms_calibration_error(counts.reliability(0, bins=bins))) for bins in (fine, coarse)]
        assert errors[1] <= errors[0] + slack
        assert counts.ece(fine) <= errors[0] + slack  # the mean of gaps lies below their root mean square


def test_voxels_that_are_certain_and_right_lower_errors_by_their_share() -> None:
    probs, labels = smooth_case(2)
    certain = torch.zeros(4, labels.numel())
    certain[0] = 1
    alone = CalibrationCounts.from_probs(probs[None], labels[None])
    joined = alone + CalibrationCounts.from_probs(certain[None], torch.zeros(1, labels.numel(), dtype=torch.uint8))
    assert joined.ece(300) == pytest.approx(alone.ece(300) / 2, abs=1e-12)


@pytest.mark.fault(54)
@pytest.mark.parametrize("levels", [2, 5, 1 << 20])
def test_the_winner_is_the_lowest_of_the_largest(levels: int) -> None:
    p = torch.from_numpy(np.random.default_rng(0).integers(0, levels, (7, 5000)).astype(np.float32))
    assert torch.equal(winner(p), torch.from_numpy(p.numpy().argmax(0).astype(np.uint8)))


def test_torchmetrics_agrees_on_few_voxels() -> None:
    """Its sums are float32, and 1.0 has a bin of its own: few voxels, none certain, so 1e-6 is left."""
    classification = pytest.importorskip("torchmetrics.functional.classification")
    probs, labels = smooth_case(0, shape=(10, 12, 8), sharpness=1.5)
    assert float(probs.max()) < 1
    counts = CalibrationCounts.from_probs(probs[None], labels[None])
    flat, target = probs.reshape(4, -1).T, labels.reshape(-1).long()
    for norm, value in {
        "l1": counts.ece(15, "left"),
        "max": counts.mce(15, "left"),
        "l2": float(rms_calibration_error(counts.reliability(0, bins=15, edges="left"))),
    }.items():
        found = classification.multiclass_calibration_error(flat, target, 4, n_bins=15, norm=norm)
        assert float(found) == pytest.approx(value, abs=1e-6)


def test_netcal_agrees_where_it_is_exact() -> None:
    """It clips probabilities by the epsilon of their type, so float64 leaves 1e-12."""
    netcal = pytest.importorskip("netcal.metrics")
    probs, labels = smooth_case(1, shape=(10, 12, 8))
    p = probs.double() / probs.double().sum(0)
    counts = CalibrationCounts.from_probs(p[None], labels[None])
    flat, target = p.reshape(4, -1).T.numpy(), labels.reshape(-1).numpy()
    assert netcal.ECE(15).measure(flat, target) == pytest.approx(counts.ece(15, "left"), abs=1e-9)
    assert netcal.MCE(15).measure(flat, target) == pytest.approx(counts.mce(15, "left"), abs=1e-9)
    assert netcal.ACE(15).measure(flat, target) == pytest.approx(counts.ace_bins(15, "left"), abs=1e-9)
