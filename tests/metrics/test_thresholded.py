"""Thresholded classwise ECE against a loop over voxels."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from helpers import smooth_case

from medcalib.metrics import CalibrationCounts
from medcalib.metrics.thresholded import thresholded_ece


@pytest.mark.parametrize("bins", [10, 15])
def test_agrees_with_a_loop_over_the_kept_voxels(bins: int) -> None:
    probs, labels = smooth_case(3, sharpness=8.0)
    found = thresholded_ece(CalibrationCounts.from_probs(probs[None], labels[None]), bins)
    for k in range(4):
        p, y = probs[k].double().numpy().ravel(), (labels == k).numpy().ravel()
        kept = p > np.float32(1e-3)
        assert 0 < kept.sum() < p.size
        p, y = p[kept], y[kept]
        index = np.ceil(p * bins).astype(int) - 1
        gaps = [abs(math.fsum(p[index == b]) - y[index == b].sum()) for b in range(bins)]
        assert float(found[k]) == pytest.approx(math.fsum(gaps) / p.size, abs=1e-12)


def test_a_class_that_is_nowhere_considered_has_no_value() -> None:
    probs = torch.tensor([0.9996, 0.0004])[:, None].expand(2, 50)
    found = thresholded_ece(CalibrationCounts.from_probs(probs[None], torch.zeros(1, 50, dtype=torch.uint8)))
    assert float(found[0]) == pytest.approx(0.0004, abs=1e-7)
    assert math.isnan(float(found[1]))


def test_certain_background_does_not_dilute_it() -> None:
    probs, labels = smooth_case(0)
    certain = torch.zeros(4, 100_000)
    certain[0] = 1
    few = CalibrationCounts.from_probs(probs[None], labels[None])
    many = few + CalibrationCounts.from_probs(certain[None], torch.zeros(1, 100_000, dtype=torch.uint8))
    assert thresholded_ece(many)[1:].tolist() == pytest.approx(thresholded_ece(few)[1:].tolist(), abs=1e-14)
    assert (many.classwise_ece()[1:] < 0.1 * few.classwise_ece()[1:]).all()
