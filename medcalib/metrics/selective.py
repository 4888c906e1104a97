"""Selective prediction: how the error falls when the least confident voxels are left to a reader."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.special import digamma

from medcalib.metrics.calibration import CalibrationCounts

__all__ = ["RiskCoverage", "aurc", "excess_aurc", "risk_coverage"]

Array = NDArray[np.float64]


class RiskCoverage(NamedTuple):
    """One entry a filled cell, from the most confident one, (cells,) float64.

    `coverage` is the share of voxels kept, in (0, 1], `risk` their error rate, in [0, 1].
    """

    coverage: Array
    risk: Array


def risk_coverage(counts: CalibrationCounts) -> RiskCoverage:
    """The risk-coverage curve of the top label; voxels of a cell of confidences are kept or left together.

    Reference: R. El-Yaniv, Y. Wiener, JMLR 2010.
    """
    n, errors = _by_confidence(counts)
    kept = n.cumsum()
    return RiskCoverage(kept / max(kept[-1:].sum(), 1), errors.cumsum() / kept)


def aurc(counts: CalibrationCounts) -> float:
    """Area under the risk-coverage curve, 1/N sum_i risk of the i most confident voxels; NaN of no voxel.

    Voxels of a cell count as ties, in random order: the area is its expectation over these orders. Reference:
    Y. Geifman, G. Uziel, R. El-Yaniv, ICLR 2019, eq. 2.
    """
    n, errors = _by_confidence(counts)
    if not n.size:
        return float("nan")
    after = n.cumsum()
    before, rate = after - n, errors / n
    earlier = errors.cumsum() - errors
    area = rate * n + (earlier - before * rate) * _harmonic(before, after)
    return float(area.sum() / after[-1])


def excess_aurc(counts: CalibrationCounts) -> float:
    """AURC minus that of the best order with as many errors, which puts all errors last; NaN of no voxel."""
    n, errors = _by_confidence(counts)
    if not n.size:
        return float("nan")
    total, wrong = n.sum(), errors.sum()
    right = total - wrong
    best = wrong - right * _harmonic(right, total)
    return aurc(counts) - float(best / total)


def _by_confidence(counts: CalibrationCounts) -> tuple[Array, Array]:
    """Voxels and errors of the filled cells, the most confident first."""
    n = counts.n[0].numpy()[::-1].astype(np.float64)
    errors = n - counts.correct[0].numpy()[::-1]
    return n[n > 0], errors[n > 0]


def _harmonic(low: Array, high: Array) -> Array:
    """1/(low+1) + ... + 1/high."""
    found: Array = digamma(high + 1) - digamma(low + 1)
    return found
