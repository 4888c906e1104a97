"""Estimators of the calibration error as functions of sums by cell or bin; leading axes are repetitions."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray

from estimators.tables import Table
from medcalib.metrics.calibration import Reliability
from medcalib.metrics.squared import debiased_squared_error, rms_calibration_error

Floats = NDArray[np.float64]
BINS = (5, 10, 15, 20, 50, 100)
SWEEP_BINS = 100


def mean_gap(table: Table) -> Floats:
    """sum_b |confidence - hits| / N: the ECE, when the sums are by bin; NaN of no voxel."""
    voxels = table.n.sum(-1)
    value: Floats = np.abs(table.gap).sum(-1) / np.where(voxels > 0, voxels, np.nan)
    return value


def ece(table: Table, bins: int, edges: str = "right") -> Floats:
    """ECE of equal-width bins."""
    return mean_gap(table.binned(bins, edges))


def _bin_gaps(table: Table) -> Floats:
    """|mean confidence - accuracy| of each bin, NaN of an empty one."""
    n = np.where(table.n > 0, table.n, np.nan)
    value: Floats = np.abs(table.gap) / n
    return value


def ace_bins(table: Table, bins: int = 15) -> Floats:
    """Mean gap of the bins that hold voxels, each alike."""
    value: Floats = np.nanmean(_bin_gaps(table.binned(bins)), -1)
    return value


def mce(table: Table, bins: int = 15) -> Floats:
    """Largest gap of a bin."""
    value: Floats = np.nanmax(_bin_gaps(table.binned(bins)), -1)
    return value


def equal_mass(table: Table, bins: int) -> Table:
    """Sums by bins of nearly equal mass, cells kept whole, as `CalibrationCounts.ece_equal_mass` makes them."""
    n = np.atleast_2d(table.n)
    total = n.sum(-1, keepdims=True)
    before = n.cumsum(-1) - n
    place = np.minimum((2 * before + n) * bins // (2 * total), bins - 1).astype(np.int64)
    code = (place + bins * np.arange(len(n))[:, None]).reshape(-1)

    def total_of(part: Floats) -> Floats:
        return np.bincount(code, np.atleast_2d(part).reshape(-1), minlength=bins * len(n)).reshape(len(n), bins)

    return Table(total_of(table.n), total_of(table.confidence), total_of(table.hits), table.of_cell)


def ece_equal_mass(table: Table, bins: int = 15) -> Floats:
    """ECE of equal-mass bins."""
    return mean_gap(equal_mass(table, bins))


def ece_sweep(table: Table, most: int = SWEEP_BINS) -> Floats:
    """ECE of the largest number of equal-mass bins up to which accuracy rises from bin to bin.

    After R. Roelofs, N. Cain, J. Shlens, M. Mozer, AISTATS 2022; at most `most` bins, cells kept whole.
    """
    value = ece_equal_mass(table, 1)
    alive = np.ones(len(value), bool)
    for bins in range(2, most + 1):
        rows = np.flatnonzero(alive)
        if not len(rows):
            break
        part = Table(*(np.atleast_2d(t)[rows] for t in (table.n, table.confidence, table.hits)), table.of_cell)
        grouped = equal_mass(part, bins)
        accuracy = np.where(grouped.n > 0, grouped.hits / np.maximum(grouped.n, 1), -np.inf)
        highest = np.maximum.accumulate(accuracy, -1)  # an empty bin neither rises nor falls
        rises = ((accuracy >= highest) | (grouped.n == 0)).all(-1)
        value[rows[rises]] = mean_gap(grouped)[rises]
        alive[rows[~rises]] = False
    return value


def squared(table: Table, bins: int = 15) -> Floats:
    """sum_b n_b / N (mean confidence - accuracy)^2."""
    value: Floats = rms_calibration_error(_curve(table, bins)).numpy() ** 2
    return value


def debiased_squared(table: Table, bins: int = 15) -> Floats:
    """`squared` without the variance that independent labels would add (Kumar, Liang, Ma, NeurIPS 2019)."""
    value: Floats = debiased_squared_error(_curve(table, bins)).numpy()
    return value


def _curve(table: Table, bins: int) -> Reliability:
    at = table.binned(bins)
    return Reliability(*(torch.from_numpy(part) for part in (at.n, at.confidence, at.hits)))


def root(value: Floats) -> Floats:
    """Square root, 0 of what is negative."""
    return np.sqrt(np.maximum(value, 0))


def ece_jackknife(gaps: Floats, voxels: Floats) -> Floats:
    """P ECE - (P - 1) mean of the ECE without one patient, from gaps (..., P, bins) and voxels (..., P)."""
    patients = gaps.shape[-2]
    whole = np.abs(gaps.sum(-2)).sum(-1) / voxels.sum(-1)
    others = gaps.sum(-2, keepdims=True) - gaps
    without = np.abs(others).sum(-1) / (voxels.sum(-1, keepdims=True) - voxels)
    value: Floats = patients * whole - (patients - 1) * without.mean(-1)
    return value


def squared_across(gaps: Floats, n: Floats) -> Floats:
    """`squared` from products of different patients only: gaps and voxels n (..., P, bins)."""
    patients = gaps.shape[-2]
    products = gaps.sum(-2) ** 2 - (gaps**2).sum(-2)
    held = n.sum(-2)
    value: Floats = (products / np.maximum(held, 1e-9)).sum(-1) / held.sum(-1) * patients / (patients - 1)
    return value
