"""The squared calibration error and its root (RMS): as it is, and without the bias that label noise adds."""

from __future__ import annotations

from torch import Tensor

from medcalib.metrics.calibration import Reliability

__all__ = ["debiased_squared_error", "rms_calibration_error"]


def rms_calibration_error(curve: Reliability) -> Tensor:
    """sqrt(sum_b n_b/N (mean confidence - accuracy)^2) over the last axis; NaN of no voxel.

    `curve` is what `CalibrationCounts.reliability` or `.binned` gives.

    Reference: D. Hendrycks et al., ICLR 2019, appendix (RMS calibration error).
    """
    squared: Tensor = _weighted(curve, _squared_gap(curve))
    return squared.sqrt()


def debiased_squared_error(curve: Reliability) -> Tensor:
    """Squared calibration error without the variance of the accuracies, over the last axis; NaN of no voxel.

    sum_b n_b/N [(mean confidence - acc_b)^2 - acc_b (1 - acc_b) / (n_b - 1)]: the plug-in estimate adds the variance
    acc (1 - acc) / n of each bin's accuracy, of which acc (1 - acc) / (n - 1) is the unbiased estimate. The
    expectation is exact for voxels whose labels are independent; where they are correlated, less bias is taken
    away than there is. It may be negative. A bin of one voxel says nothing and counts 0, as in the authors' code.
    `curve` is what `CalibrationCounts.reliability` or `.binned` gives.

    References: J. Broecker, Climate Dynamics 2012; A. Kumar, P. Liang, T. Ma, NeurIPS 2019, definition 5.1.
    """
    accuracy = curve.accuracy / curve.n
    noise = accuracy * (1 - accuracy) / (curve.n - 1)
    return _weighted(curve, (_squared_gap(curve) - noise).where(curve.n > 1, 0.0))


def _squared_gap(curve: Reliability) -> Tensor:
    gap: Tensor = (curve.confidence - curve.accuracy) / curve.n
    return gap.square()


def _weighted(curve: Reliability, value: Tensor) -> Tensor:
    """Mean over voxels of a value per bin."""
    total: Tensor = (curve.n * value).where(curve.n > 0, 0.0).sum(-1) / curve.n.sum(-1)
    return total
