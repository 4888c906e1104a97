"""Histogram binning: counts by hand, edges, empty bins, the official values."""

from __future__ import annotations

import pytest
import torch
from fits import close, drawn, golden

from medcalib.calibrators import build
from medcalib.calibrators.histogram import Histogram


def two_classes(p: list[float]) -> torch.Tensor:
    probs = torch.tensor(p, dtype=torch.float64)
    return torch.stack([(1 - probs).log(), probs.log()], 1).clamp(min=-800)


def test_frequencies_by_hand() -> None:
    """Class 1, four bins of [lower, upper): 0.1 | 0.3 0.3 0.3 | none | 0.75 0.8 1 with labels 1 | 0 1 1 | | 0 1 1."""
    p = [0.1, 0.3, 0.3, 0.3, 0.75 + 1e-12, 0.8, 1.0]
    fitted = Histogram(2, bins=4).fit(two_classes(p), torch.tensor([1, 0, 1, 1, 0, 1, 1]))
    close(fitted.frequency_[1], [1, 2 / 3, 0, 2 / 3], 1e-15)
    close(fitted.frequency_[0], [1 / 3, 0, 1 / 3, 0], 1e-15)  # class 0: 0, 0.2, 0.25 | | 0.7 0.7 0.7 | 0.9
    found = fitted(two_classes([0.3])).softmax(1)[0]
    close(found, [1 / 3, 2 / 3], 1e-8)  # of class 0 the bin of 0.7 holds the three voxels labeled 0 1 1


def test_where_all_bins_are_empty_the_probabilities_stay() -> None:
    """Rows of zeros are NaN in netcal."""
    fitted = Histogram(2, bins=4).fit(two_classes([0.1, 0.1]), torch.tensor([0, 0]))
    close(fitted(two_classes([0.6])).softmax(1)[0], [0.4, 0.6], 1e-12)


@pytest.mark.parametrize("bins", [10, 15])
def test_the_golden_frequencies(bins: int) -> None:
    """Apart by the 1e-9 p that keeps classes possible."""
    stored, _, logits, labels, after = golden("histogram_binning")
    close(Histogram(4, bins=bins).fit(logits, labels)(after).softmax(1), stored[f"hist_probs_b{bins}"], 2e-9)


def test_in_each_bin_the_mean_is_what_came_true() -> None:
    logits, labels = drawn(3.0)
    fitted = Histogram(4, bins=5).fit(logits, labels)
    p = logits.softmax(1)[:, 2]
    for b in range(5):
        inside = (p >= b / 5) & (p < (b + 1) / 5)
        assert fitted.frequency_[2, b].item() == pytest.approx((labels[inside] == 2).double().mean().item())


def test_no_bins_are_refused() -> None:
    with pytest.raises(ValueError, match="bins must be 1 or more"):
        build("histogram", 4, bins=0)
