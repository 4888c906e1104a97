"""RMS and debiased calibration error: by hand, and unbiased where the plug-in estimate is not."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from medcalib.metrics import CalibrationCounts, Reliability
from medcalib.metrics.squared import debiased_squared_error, rms_calibration_error


def curve(n: list[float], confidence: list[float], hits: list[float]) -> Reliability:
    return Reliability(*(torch.tensor(v, dtype=torch.float64) for v in (n, confidence, hits)))


def test_two_bins_by_hand() -> None:
    """Bins of 4 and 6 voxels with mean confidence 0.5, 0.9 and accuracy 0.75, 0.5: gaps -0.25 and 0.4."""
    given = curve([4, 6, 0], [2.0, 5.4, 0], [3, 3, 0])
    squared = 0.4 * 0.0625 + 0.6 * 0.16
    assert float(rms_calibration_error(given)) == pytest.approx(math.sqrt(squared), abs=1e-15)
    noise = 0.4 * 0.75 * 0.25 / 3 + 0.6 * 0.25 / 5
    assert float(debiased_squared_error(given)) == pytest.approx(squared - noise, abs=1e-15)


def test_a_bin_of_one_voxel_says_nothing() -> None:
    assert float(debiased_squared_error(curve([1, 1], [0.2, 0.9], [1, 0]))) == 0.0
    assert float(rms_calibration_error(curve([1], [0.2], [1]))) == pytest.approx(0.8)


def test_no_voxel_has_no_error() -> None:
    for score in (rms_calibration_error, debiased_squared_error):
        assert math.isnan(float(score(curve([0, 0], [0, 0], [0, 0]))))


def test_debiased_is_unbiased_and_the_plug_in_is_not() -> None:
    """Calibrated labels, few voxels a bin: over 400 draws the debiased mean is 0 within 4 standard errors, the
    plug-in mean is what the theory says it is, sum_b n_b/N acc (1 - acc)/n_b."""
    rng = np.random.default_rng(0)
    p = np.float64(0.55 + 0.4 * rng.random(600))
    debiased, plugin, expected = [], [], []
    for _ in range(400):
        probs = torch.from_numpy(np.stack([1 - p, p]))[None]
        counts = CalibrationCounts.from_probs(probs, torch.from_numpy(rng.random(600) < p)[None].long())
        given = counts.reliability(0, bins=15)
        debiased.append(float(debiased_squared_error(given)))
        plugin.append(float(rms_calibration_error(given)) ** 2)
        filled = given.n > 0
        mean = (given.confidence / given.n)[filled]
        expected.append(float((mean * (1 - mean)).sum() / given.n.sum()))
    error = np.std(debiased) / math.sqrt(len(debiased))
    assert abs(np.mean(debiased)) < 4 * error
    assert np.mean(plugin) == pytest.approx(np.mean(expected), rel=0.1)
    assert np.mean(plugin) > 20 * error


def test_a_true_gap_is_found_without_bias() -> None:
    """Confidence 0.1 above the accuracy everywhere: the squared error is 0.01."""
    rng = np.random.default_rng(1)
    p = np.float64(0.7 + 0.25 * rng.random(400))
    found = []
    for _ in range(300):
        probs = torch.from_numpy(np.stack([1 - p, p]))[None]
        counts = CalibrationCounts.from_probs(probs, torch.from_numpy(rng.random(400) < p - 0.1)[None].long())
        found.append(float(debiased_squared_error(counts.reliability(0, bins=15))))
    assert abs(np.mean(found) - 0.01) < 4 * np.std(found) / math.sqrt(len(found))


def test_bins_in_rows_are_scored_each_for_itself() -> None:
    rows = [curve([4, 6], [2.0, 5.4], [3, 3]), curve([2, 8], [1.5, 4.0], [1, 6])]
    both = Reliability(*(torch.stack(parts) for parts in zip(*rows, strict=True)))
    for score in (rms_calibration_error, debiased_squared_error):
        assert score(both).tolist() == pytest.approx([float(score(row)) for row in rows], abs=1e-15)
