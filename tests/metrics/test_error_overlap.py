"""Uncertainty-error overlap against trying every threshold on every voxel."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from helpers import smooth_case

from medcalib.metrics import CalibrationCounts
from medcalib.metrics.cells import is_point, upper_edges
from medcalib.metrics.error_overlap import uncertainty_error_overlap


@pytest.mark.parametrize("sharpness", [1.0, 3.0, 12.0])
def test_agrees_with_trying_every_threshold(sharpness: float) -> None:
    probs, labels = smooth_case(0, sharpness=sharpness)
    confidence, predicted = probs.max(0)
    wrong = (predicted != labels).numpy().ravel()
    below = confidence.numpy().ravel().astype(np.float64)
    best = 0.0
    for edge in np.unique(upper_edges()[~is_point()]):
        uncertain = below < edge  # 1 - confidence > 1 - edge, without rounding
        dice = 2 * (uncertain & wrong).sum() / (uncertain.sum() + wrong.sum())
        best = max(best, dice)
    found = uncertainty_error_overlap(CalibrationCounts.from_probs(probs[None], labels[None]))
    assert found.dice == pytest.approx(best, abs=1e-14)
    uncertain = below < 1 - found.threshold
    assert 2 * (uncertain & wrong).sum() / (uncertain.sum() + wrong.sum()) == pytest.approx(best, abs=1e-14)


def test_uncertainty_that_marks_exactly_the_errors_overlaps_fully() -> None:
    confidence = torch.tensor([0.95] * 6 + [0.62] * 2)
    probs = torch.stack([confidence, 1 - confidence])[None]
    found = uncertainty_error_overlap(CalibrationCounts.from_probs(probs, torch.tensor([[0] * 6 + [1] * 2])))
    assert found.dice == 1.0
    assert 0.05 <= found.threshold < 0.38
    assert found.threshold == pytest.approx(1 - 187 / 300, abs=1e-12)  # float32 0.62 lies between 186/300 and 187/300


def test_without_an_error_there_is_nothing_to_find() -> None:
    probs = torch.tensor([[0.9, 0.8], [0.1, 0.2]])[None]
    right = CalibrationCounts.from_probs(probs, torch.zeros(1, 2).long())
    assert all(math.isnan(value) for value in uncertainty_error_overlap(right))
    assert math.isnan(uncertainty_error_overlap(CalibrationCounts.zeros(2)).dice)
