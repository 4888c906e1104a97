"""Risk-coverage and AURC against sorting every voxel."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from helpers import smooth_case

from medcalib.metrics import CalibrationCounts
from medcalib.metrics.selective import aurc, excess_aurc, risk_coverage
from medcalib.ops.scoring import cell_index


def sorted_aurc(confidence: np.ndarray, wrong: np.ndarray) -> float:
    """Mean of the error rates of the 1, 2, ..., N most confident voxels; equal confidences share their errors."""
    order = np.argsort(-confidence, kind="stable")
    confidence, wrong = confidence[order], wrong[order].astype(np.float64)
    for value in np.unique(confidence):
        wrong[confidence == value] = wrong[confidence == value].mean()
    return float((wrong.cumsum() / np.arange(1, wrong.size + 1)).mean())


def counted(seed: int, sharpness: float = 3.0) -> tuple[CalibrationCounts, np.ndarray, np.ndarray]:
    probs, labels = smooth_case(seed, sharpness=sharpness)
    confidence, predicted = probs.max(0)
    counts = CalibrationCounts.from_probs(probs[None], labels[None])
    return counts, confidence.numpy().ravel(), (predicted != labels).numpy().ravel()


@pytest.mark.parametrize("sharpness", [1.0, 3.0, 20.0])
def test_aurc_equals_sorting_voxels_by_cell(sharpness: float) -> None:
    counts, confidence, wrong = counted(0, sharpness)
    assert aurc(counts) == pytest.approx(sorted_aurc(cell_index(confidence), wrong), abs=1e-12)


def test_aurc_is_close_to_sorting_by_the_confidence_itself() -> None:
    """Cells are 1/300 wide: within one, voxels are hardly different. 4800 voxels, so a thousandth is much."""
    counts, confidence, wrong = counted(1)
    assert aurc(counts) == pytest.approx(sorted_aurc(confidence, wrong), abs=1e-3)


def test_excess_is_0_for_the_best_order_and_aurc_is_the_error_rate_for_no_order() -> None:
    confidence = torch.tensor([0.9] * 7 + [0.6] * 3, dtype=torch.float64)
    counts = CalibrationCounts.from_probs(
        torch.stack([confidence, 1 - confidence])[None], torch.tensor([[0] * 7 + [1] * 3])
    )
    best = sum(max(0, i - 7) / i for i in range(1, 11)) / 10
    assert aurc(counts) == pytest.approx(best, abs=1e-14)
    assert excess_aurc(counts) == pytest.approx(0, abs=1e-14)
    flat = torch.full((2, 10), 0.5)
    tied = CalibrationCounts.from_probs(flat[None], torch.tensor([[0] * 7 + [1] * 3]))
    assert aurc(tied) == pytest.approx(0.3, abs=1e-14)
    assert excess_aurc(tied) == pytest.approx(0.3 - best, abs=1e-14)


def test_the_curve_ends_at_full_coverage_and_the_error_rate() -> None:
    counts, confidence, wrong = counted(2)
    curve = risk_coverage(counts)
    assert (curve.coverage[-1], curve.risk[-1]) == (1.0, pytest.approx(wrong.mean()))
    assert (np.diff(curve.coverage) > 0).all()
    half = np.searchsorted(curve.coverage, 0.5)
    kept = np.argsort(-cell_index(confidence), kind="stable")[: round(curve.coverage[half] * wrong.size)]
    assert curve.risk[half] == pytest.approx(wrong[kept].mean())


def test_a_sum_of_counts_is_sorted_together() -> None:
    parts = [counted(seed) for seed in range(3)]
    cells = np.concatenate([cell_index(confidence) for _, confidence, _ in parts])
    wrong = np.concatenate([w for _, _, w in parts])
    assert aurc(sum(c for c, _, _ in parts)) == pytest.approx(sorted_aurc(cells, wrong), abs=1e-12)


def test_it_holds_for_a_hundred_million_voxels() -> None:
    """The harmonic sums must not lose digits: all errors in the least confident cell of a FLARE-size volume."""
    big = CalibrationCounts.zeros(2)
    n, correct = big.n.clone(), big.correct.clone()
    n[0, -1], correct[0, -1] = 90_000_000, 90_000_000
    n[0, 400] = 10_000_000
    counts = CalibrationCounts(n, correct, big.conf_hi, big.conf_lo)
    expected = 0.1 - 0.9 * math.log(1 / 0.9)
    assert aurc(counts) == pytest.approx(expected, abs=1e-8)
    assert abs(excess_aurc(counts)) < 1e-12


def test_no_voxel_has_no_area() -> None:
    empty = CalibrationCounts.zeros(3)
    assert math.isnan(aurc(empty))
    assert math.isnan(excess_aurc(empty))
    assert risk_coverage(empty).coverage.size == 0
