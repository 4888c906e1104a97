"""How often intervals over patients hold the true value."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.stats import t as student

from estimators import estimates
from estimators.experiments import BINS, REGION, Design, Row
from estimators.tables import Scored
from medcalib.metrics.across import across_interval
from medcalib.metrics.intervals import of_ece

Floats = NDArray[np.float64]
Limits = tuple[float, float]
RESAMPLES = 1000


def bca(gaps: Floats, n: Floats) -> Limits:
    """What `scores.json` gives beside a pooled ECE."""
    found = of_ece(gaps, n)
    return float(found.low or 0.0), float(found.high or 0.0)


def basic(gaps: Floats, n: Floats) -> Limits:
    """Twice the ECE minus the quantiles of its bootstrap over patients, cut at 0."""
    patients = len(gaps)
    at = np.random.default_rng(0).integers(patients, size=(RESAMPLES, patients))
    again = np.abs(gaps[at].sum(1)).sum(-1) / n[at].sum((1, 2))
    whole = np.abs(gaps.sum(0)).sum() / n.sum()
    low, high = np.quantile(again, (0.025, 0.975))
    return max(2 * whole - high, 0.0), max(2 * whole - low, 0.0)


def across(gaps: Floats, n: Floats) -> Limits:
    """`ece_across` with Student's interval of what each patient adds, cut at 0."""
    found = across_interval(gaps, n.sum(-1))
    return float(found.low or 0.0), float(found.high or 0.0)


def signed(gaps: Floats, n: Floats) -> Limits:
    """The mean of confidence minus accuracy and Student's interval over patients."""
    patients, voxels, parts = len(gaps), n.sum(-1), gaps.sum(-1)
    value = float(parts.sum() / voxels.sum())
    error = np.sqrt(patients / (patients - 1) * ((parts - value * voxels) ** 2).sum()) / voxels.sum()
    reach = float(student.ppf(0.975, patients - 1) * error)
    return value - reach, value + reach


INTERVALS: dict[str, Callable[[Floats, Floats], Limits]] = {
    "ece: BCa (medcalib)": bca,
    "ece: basic bootstrap": basic,
    "ece across: Student": across,
    "gap: Student": signed,
}


def coverage(scored: Scored, design: Design, repeats: int, **names: Any) -> Iterator[Row]:
    """Share of intervals that hold the true value, that lie above or below it, and their mean width."""
    measured, limit = scored.measured[REGION].binned(BINS), scored.limit[REGION].binned(BINS).pooled()
    ece, gap = float(estimates.mean_gap(limit)), float(limit.gap.sum() / limit.n.sum())
    for patients in [n for n in design.patients if n >= 4]:
        picks = design.picks(scored, patients)[:repeats]
        for name, of in INTERVALS.items():
            truth = gap if name.startswith("gap") else ece
            limits = np.array([of(measured.gap[at], measured.n[at]) for at in picks])
            low, high = limits[:, 0] > truth + 1e-7, limits[:, 1] < truth - 1e-7  # float32 posteriors
            about = {"study": "coverage", "region": REGION, "patients": patients, "estimator": name, "true": truth}
            yield (
                names
                | about
                | {
                    "covered": float(1 - (low | high).mean()),
                    "above": float(low.mean()),
                    "below": float(high.mean()),
                    "width": float((limits[:, 1] - limits[:, 0]).mean()),
                }
            )
