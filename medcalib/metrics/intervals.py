"""Confidence intervals by bootstrap over patients: voxels of one patient are not independent."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import scipy  # not scipy.stats: it is loaded on first use, which takes nearly a second
from numpy.typing import NDArray

__all__ = ["Interval", "of_ece", "of_mean", "of_means", "over_patients"]

Array = NDArray[np.float64]
RESAMPLES = 2000
SCORES = 64  # bootstrapped together: memory of 64 x 100 resamples x patients
MIN_PATIENTS = 3  # below, an interval over patients says nothing


class Interval(NamedTuple):
    """A 95 % interval, `low` to `high`; None where it cannot be computed."""

    low: float | None
    high: float | None


def over_patients(statistic: Callable[[NDArray[np.intp]], Array], patients: int, *, seed: int = 0) -> Interval:
    """95 % BCa interval of `statistic(indices of patients (..., P)) -> (...)` over resampled patients.

    `seed` fixes the 2000 resamples. Both ends are None below 3 patients.

    Reference: B. Efron, Better Bootstrap Confidence Intervals, JASA 1987. Where BCa is undefined (all patients
    alike) or leaves out the median of the resamples, the percentile interval is given, widened to the value: an ECE
    near 0 lies below nearly all of its resamples, which can only be less calibrated, and BCa then ends in their
    lowest ones, an interval of hardly any width.
    """
    return over_patients_at_once(lambda indices: statistic(indices)[None], patients, 1, seed)[0]


def over_patients_at_once(
    statistics: Callable[[NDArray[np.intp]], Array], patients: int, scores: int, seed: int
) -> list[Interval]:
    """As `over_patients` for statistics(indices (..., P)) -> (scores, ...), whose resamples are the same.

    `seed` fixes them.
    """
    found = [Interval(None, None)] * scores
    if patients < MIN_PATIENTS:
        return found

    def resampled(indices: Any, axis: int = -1) -> Array:
        return statistics(np.moveaxis(np.asarray(indices, dtype=np.intp), axis, -1))

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        drawn = scipy.stats.bootstrap(
            (np.arange(patients),),
            resampled,
            vectorized=True,
            n_resamples=RESAMPLES,
            batch=100,
            method="BCa",
            rng=np.random.default_rng(seed),
        )
    limits = drawn.confidence_interval
    values = resampled(np.arange(patients))
    for k, resamples in enumerate(drawn.bootstrap_distribution):
        if not np.isfinite(resamples).all():
            continue
        low, high = float(limits.low[k]), float(limits.high[k])
        first, median, last = np.percentile(resamples, (2.5, 50, 97.5))
        if not low <= median <= high:  # NaN, too
            low, high = float(min(first, values[k])), float(max(last, values[k]))
        found[k] = Interval(low, high)
    return found


def of_means(sums: Array, counts: Array) -> list[Interval]:
    """Intervals of sum(sums) / sum(counts) over patients, for many scores (L, P): patients are resampled.

    A patient without any case that has the score (count 0) is left out of it. The same patients are drawn for every
    score that the same patients have.
    """
    found = [Interval(None, None)] * len(sums)
    kept = counts > 0
    patterns, group = np.unique(kept, axis=0, return_inverse=True)
    for g, pattern in enumerate(patterns):
        rows = np.flatnonzero(group.reshape(-1) == g)
        for part in np.array_split(rows, max(1, len(rows) // SCORES)):
            at = np.ix_(part, np.flatnonzero(pattern))
            for row, interval in zip(part, _of_block(sums[at], counts[at]), strict=True):
                found[row] = interval
    return found


def of_mean(sums: Array, counts: Array) -> Interval:
    """`of_means` of one score: sums (P,) and counts (P,), one entry a patient."""
    return of_means(sums[None], counts[None])[0]


def _of_block(sums: Array, counts: Array) -> list[Interval]:
    def means(indices: NDArray[np.intp]) -> Array:
        # in one order and layout, so that the same patients in another order give the same bits, and count as a tie
        drawn = np.sort(indices, -1)
        value: Array = np.take(sums, drawn, axis=1).sum(-1) / np.take(counts, drawn, axis=1).sum(-1)
        return value

    return over_patients_at_once(means, sums.shape[1], len(sums), 0)


def of_ece(gaps: Array, voxels: Array) -> Interval:
    """Interval of the pooled ECE from gaps (P, bins), sums of confidence minus hits, and voxels (P, bins)."""

    def ece(indices: NDArray[np.intp]) -> Array:
        gap = np.abs(gaps[indices].sum(-2)).sum(-1)
        value: Array = gap / np.maximum(voxels[indices].sum((-2, -1)), 1)
        return value

    return over_patients(ece, len(gaps))
