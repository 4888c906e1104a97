"""The pooled ECE with its directions taken across patients: near 0 it is not too large, and its interval can hold 0."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.special import stdtrit

from medcalib.metrics.calibration import CalibrationCounts, Edges
from medcalib.metrics.intervals import MIN_PATIENTS

__all__ = ["Across", "across_interval", "across_patients", "ece_across"]

Array = NDArray[np.float64]


class Across(NamedTuple):
    """The `value`, which may be negative, and its 95 % interval `low` to `high` in [0, inf); None: unknown."""

    value: float | None
    low: float | None
    high: float | None


def ece_across(gaps: Array, voxels: Array) -> Array:
    """ECE of P patients from sums of confidence minus hits `gaps` (..., P, bins) and numbers of `voxels` (..., P).

    sum_p sum_b sign(sum_{q != p} g_qb) g_pb / sum_p n_p. The plug-in ECE takes |sum_p g_pb|: the noise of the labels
    chooses its own sign and never cancels. Here the other patients choose it. For patients drawn alike and
    independently the expectation is 0 for a calibrated network, and at most the ECE for any other (less where the
    direction of a bin is in doubt), up to the ratio of random sums. Labels of one patient may depend on each other.
    It may be negative. NaN where there is no voxel or there are fewer than two patients.
    """
    value: Array = _parts(gaps).sum(-1) / _total(voxels)
    return value


def across_interval(gaps: Array, voxels: Array) -> Across:
    """`ece_across` of gaps (P, bins) and voxels (P,), with Student's interval of the patients' parts, cut at 0.

    The estimate is a ratio of sums over patients, sum c_p / sum n_p, whose standard error is
    sqrt(P / (P - 1) sum (c_p - value n_p)^2) / sum n_p. No interval below three patients. It holds the 0 of a
    calibrated network about as often as it says; for an error of the size of the noise it is too narrow with few
    patients (docs/results/estimators.md).
    """
    patients, value = len(voxels), float(ece_across(gaps, voxels))
    if not np.isfinite(value):
        return Across(None, None, None)
    if patients < MIN_PATIENTS:
        return Across(value, None, None)
    residual = _parts(gaps) - value * voxels
    error = np.sqrt(patients / (patients - 1) * np.square(residual).sum()) / voxels.sum()
    reach = float(stdtrit(patients - 1, 0.975) * error)
    return Across(value, max(value - reach, 0.0), max(value + reach, 0.0))


def across_patients(
    counts: Sequence[CalibrationCounts], patients: Sequence[str], *, bins: int = 15, edges: Edges = "right"
) -> Across:
    """`across_interval` of the top label from the counts of cases, each with the patient that it is of."""
    names = sorted(set(patients))
    gaps, voxels = np.zeros((len(names), bins)), np.zeros(len(names))
    for case, patient in zip(counts, patients, strict=True):
        curve = case.reliability(0, bins=bins, edges=edges)
        gaps[names.index(patient)] += (curve.confidence - curve.accuracy).numpy()
        voxels[names.index(patient)] += float(curve.n.sum())
    return across_interval(gaps, voxels)


def _parts(gaps: Array) -> Array:
    """What each patient adds, (..., P)."""
    others = gaps.sum(-2, keepdims=True) - gaps
    parts: Array = (np.sign(others) * gaps).sum(-1)
    return parts if gaps.shape[-2] > 1 else np.full_like(parts, np.nan)


def _total(voxels: Array) -> Array:
    total = voxels.sum(-1)
    return np.where(total > 0, total, np.nan)
