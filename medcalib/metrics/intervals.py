"""Confidence intervals by bootstrap over patients: voxels of one patient are not independent."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.stats import bootstrap

Array = NDArray[np.float64]
RESAMPLES = 2000
MIN_PATIENTS = 3  # below, an interval over patients says nothing


class Interval(NamedTuple):
    """A 95 % interval; None where it cannot be computed."""

    low: float | None
    high: float | None


def over_patients(statistic: Callable[[NDArray[np.intp]], Array], patients: int, *, seed: int = 0) -> Interval:
    """95 % BCa interval of `statistic(indices of patients (..., P)) -> (...)` over resampled patients.

    Reference: B. Efron, Better Bootstrap Confidence Intervals, JASA 1987. Where BCa is undefined (all patients
    alike), the percentile interval is given.
    """
    if patients < MIN_PATIENTS:
        return Interval(None, None)

    def resampled(indices: Any, axis: int = -1) -> Array:
        return statistic(np.moveaxis(np.asarray(indices, dtype=np.intp), axis, -1))

    for method in ("BCa", "percentile"):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            found = bootstrap(
                (np.arange(patients),),
                resampled,
                vectorized=True,
                n_resamples=RESAMPLES,
                batch=100,
                method=method,
                rng=np.random.default_rng(seed),
            ).confidence_interval
        if np.isfinite(found.low) and np.isfinite(found.high):
            return Interval(float(found.low), float(found.high))
    return Interval(None, None)


def of_mean(sums: Array, counts: Array) -> Interval:
    """Interval of sum(sums) / sum(counts), one entry a patient: a mean over cases with patients resampled."""
    kept = counts > 0
    sums, counts = sums[kept], counts[kept]

    def mean(indices: NDArray[np.intp]) -> Array:
        value: Array = sums[indices].sum(-1) / counts[indices].sum(-1)
        return value

    return over_patients(mean, len(sums))


def of_ece(gaps: Array, voxels: Array) -> Interval:
    """Interval of the pooled ECE from (patients, bins) sums of confidence minus hits, and of voxels."""

    def ece(indices: NDArray[np.intp]) -> Array:
        gap = np.abs(gaps[indices].sum(-2)).sum(-1)
        value: Array = gap / np.maximum(voxels[indices].sum((-2, -1)), 1)
        return value

    return over_patients(ece, len(gaps))
