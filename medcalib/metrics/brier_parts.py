"""The Brier score of each class as a sum of parts that add up to it exactly."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from medcalib.metrics.calibration import CalibrationCounts, Edges
from medcalib.ops.scoring import from_limbs

__all__ = ["BrierParts", "brier_parts", "classwise_brier"]


class BrierParts(NamedTuple):
    """Brier score of each class (C [+ composites],) float64, and what it is made of; NaN where no voxel.

    brier = reliability - resolution + uncertainty + within_variance - within_covariance
    """

    brier: Tensor
    reliability: Tensor
    resolution: Tensor
    uncertainty: Tensor
    within_variance: Tensor
    within_covariance: Tensor


def brier_parts(counts: CalibrationCounts, bins: int = 15, edges: Edges = "right") -> BrierParts:
    """Mean of (p - y)^2 of each class, y in {0, 1}, decomposed over equal-width bins.

    With n_b voxels, mean probability p_b and frequency y_b in bin b, and frequency y over all:
        reliability        sum_b n_b/N (p_b - y_b)^2      0 is calibrated
        resolution         sum_b n_b/N (y_b - y)^2        what the bins tell apart
        uncertainty        y (1 - y)                      of the labels alone
        within_variance    sum over voxels of (p - p_b)^2 / N
        within_covariance  2 sum over voxels of (p - p_b)(y - y_b) / N
    The last two are what binning leaves out. They come from the exact sums of p^2 and p y, so that the parts
    add up to the exact score.

    References: A. H. Murphy, J. Applied Meteorology 1973; D. B. Stephenson et al., Weather and Forecasting 2008,
    eq. 10 to 13. ValueError for counts without these sums (`from_logits` does not make them).
    """
    if counts.square is None or counts.product is None:
        raise ValueError(
            "the Brier score needs counts made from probabilities: CalibrationCounts.from_probs or score_case"
        )
    curve = counts.binned(bins, edges)
    n, p, y = (part[1:] for part in curve)
    total = n.sum(-1)
    squares = from_limbs(counts.square[1:, 0], counts.square[1:, 1])
    products = from_limbs(counts.product[1:, 0], counts.product[1:, 1])
    frequency = y.sum(-1) / total

    def over_bins(value: Tensor) -> Tensor:
        return value.where(n > 0, 0.0).sum(-1)

    return BrierParts(
        (squares - 2 * products + y.sum(-1)) / total,
        over_bins((p - y).square() / n) / total,
        over_bins(n * (y / n - frequency[:, None]).square()) / total,
        frequency * (1 - frequency),
        (squares - over_bins(p.square() / n)) / total,
        2 * (products - over_bins(p * y / n)) / total,
    )


def classwise_brier(counts: CalibrationCounts) -> Tensor:
    """Mean of (p - y)^2 of each class (C [+ composites],) float64, in [0, 1]; NaN where no voxel.

    NaN, too, where the counts lack the sums for whose absence `brier_parts` raises ValueError.
    """
    if counts.square is None or counts.product is None:
        return torch.full((counts.n.shape[0] - 1,), torch.nan, dtype=torch.float64)
    return brier_parts(counts).brier
