"""Methods trained with several seeds: means over seeds with intervals over patients, and paired differences.

Every interval resamples patients, the same ones for all seeds and all methods, so that differences are paired.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from medcalib.metrics.intervals import MIN_PATIENTS, over_patients_at_once

__all__ = ["Contrast", "Estimate", "Tables", "estimates", "over_patients_of"]

Array = NDArray[np.float64]
Kind = Literal["mean", "ece", "ace"]


@dataclass(frozen=True)
class Tables:
    """What one number of each of M trained models is made of: per patient, sums and what they are divided by.

    `sums` and `counts` (M, P, K, B). kind "ece": summed confidence minus hits and voxels of K channels in B bins, the
    number is mean_k sum_b |sums| / sum_b counts; "ace": mean_k of the mean over filled bins of |sums| / counts;
    "mean" (K = B = 1): sums / counts, such as summed values of cases and their number. Patients are added up first.
    Channels without voxels do not count; NaN where none has any.
    """

    kind: Kind
    sums: Array
    counts: Array

    @property
    def patients(self) -> int:
        """P."""
        return int(self.sums.shape[1])

    def values(self) -> Array:
        """The number of each model over all patients once, (M,)."""
        return self._drawn(np.ones((1, self.patients)))[:, 0]

    def _drawn(self, times: Array) -> Array:
        """The numbers (M, R) of patients that count `times` (R, P) each."""
        models, patients, channels, bins = self.sums.shape
        shape = (len(times), models, channels, bins)
        sums, counts = (
            (times @ whole.transpose(1, 0, 2, 3).reshape(patients, -1)).reshape(shape) * unit
            for whole, unit in (_exact(self.sums), _exact(self.counts))
        )
        with np.errstate(divide="ignore", invalid="ignore"):
            if self.kind == "mean":
                ratio = (sums / counts)[..., 0]
            elif self.kind == "ece":
                ratio = np.abs(sums).sum(-1) / counts.sum(-1)
            else:
                filled = counts > 0
                ratio = np.where(filled, np.abs(sums) / counts, 0.0).sum(-1) / filled.sum(-1)
            known = np.isfinite(ratio)
            value: Array = np.where(known, ratio, 0.0).sum(-1) / known.sum(-1)
        return value.T


class Estimate(NamedTuple):
    """A number, `value`, with its 95 % interval over patients, `low` to `high`; None where undefined."""

    value: float | None
    low: float | None
    high: float | None


class Contrast(NamedTuple):
    """Mean over the models `of`, less the mean over the models `less` where there are any (indices into M)."""

    of: tuple[int, ...]
    less: tuple[int, ...] = ()


def estimates(tables: Tables, contrasts: Sequence[Contrast]) -> list[Estimate]:
    """Each of the `contrasts` of the models in `tables` with its 95 % interval, None below 3 patients.

    BCa over patients as in `intervals`; the same patients are drawn for all models, so that differences are paired.
    """
    values = tables.values()
    points = [_contrast(values[:, None], c)[0] for c in contrasts]
    known = [k for k, point in enumerate(points) if math.isfinite(point)]
    found = [Estimate(None, None, None)] * len(contrasts)
    if tables.patients < MIN_PATIENTS or not known:
        for k in known:
            found[k] = Estimate(float(points[k]), None, None)
        return found

    def statistics(indices: NDArray[np.intp]) -> Array:
        drawn = tables._drawn(_multiplicity(indices.reshape(-1, indices.shape[-1]), tables.patients))
        return np.stack([_contrast(drawn, contrasts[k]) for k in known]).reshape(-1, *indices.shape[:-1])

    for k, interval in zip(known, over_patients_at_once(statistics, tables.patients, len(known), 0), strict=True):
        found[k] = Estimate(float(points[k]), *interval)
    return found


def _contrast(values: Array, contrast: Contrast) -> Array:
    """(M, R) -> (R,). Added model by model in order, so that equal models give a difference of exactly 0."""

    def mean(models: tuple[int, ...]) -> Array:
        total: Array = values[list(models)].sum(0) / len(models)
        return total

    if not contrast.of:
        return np.full(values.shape[1:], np.nan)
    return mean(contrast.of) - mean(contrast.less) if contrast.less else mean(contrast.of)


def _multiplicity(indices: NDArray[np.intp], patients: int) -> Array:
    """How often each patient was drawn: (R, drawn) -> (R, P)."""
    rows = np.arange(len(indices))[:, None] * patients
    return np.bincount((indices + rows).ravel(), minlength=len(indices) * patients).reshape(-1, patients).astype(float)


def _exact(values: Array) -> tuple[Array, float]:
    """Whole numbers and their unit: sums of patients drawn in any order are then exact, and ties are ties."""
    largest = float(np.abs(values).max(initial=0.0)) * values.shape[1]
    if not largest:
        return values, 1.0
    unit = 2.0 ** (math.ceil(math.log2(largest)) - 52)
    return np.rint(values / unit), unit


def over_patients_of(case_values: Array, owners: Sequence[int], patients: int) -> Array:
    """Mean of the cases of each patient; NaN where one has no value.

    Shapes: case_values (N, ...) -> (patients, ...); `owners` gives the patient, 0..patients-1, of each of the N cases.
    """
    sums = np.zeros((patients, *case_values.shape[1:]))
    np.add.at(sums, list(owners), case_values)
    counts = np.bincount(list(owners), minlength=patients).astype(float)
    with np.errstate(divide="ignore", invalid="ignore"):
        means: Array = sums / counts.reshape(-1, *(1,) * (case_values.ndim - 1))
    return means
