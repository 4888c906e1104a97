"""Isotonic regression of class probabilities on what came true."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from medcalib.calibrators.steps import MappedProbabilities
from medcalib.calibrators.voxels import Voxels

EXACT = 1 << 22  # probabilities that are sorted as they are; more are counted in cells of their log-odds
CELLS = 1 << 17
_SPAN = 40.0  # log-odds -40..40: beyond, a probability is 0 or 1 to float64
Array = NDArray[np.float64]


class Isotonic(MappedProbabilities):
    """The monotone f that minimizes the mean squared error of f(p_k) against [the label is k].

    `pooled=True` fits one f to the probabilities of all classes (multi-class isotonic regression), a monotone map
    that keeps the arg-max; `pooled=False` one f_k a class (one-vs-rest), which may change it. Between the fitted
    steps f is linear, outside constant. Rows are divided by their sum, which the official code leaves out.

    More than 4 million probabilities (voxels times classes) are first counted in 131,072 cells of log-odds 0.0006
    wide, which takes memory of one size for any number of voxels.

    Reference: J. Zhang et al., Mix-n-Match, ICML 2020, section 4.3 (pooled, with the 1e-9 p that breaks ties);
    B. Zadrozny and C. Elkan, Transforming classifier scores into accurate multiclass probability estimates, KDD 2002.
    """

    name = "isotonic"
    formula = "f_k(p_k) + 1e-9 p_k, rows divided by their sum; f_k linear between thresholds_ of class k, values_ there"
    reference = "J. Zhang et al., ICML 2020, section 4.3; B. Zadrozny and C. Elkan, KDD 2002"

    def __init__(self, num_classes: int, *, pooled: bool = True) -> None:
        super().__init__(num_classes, pooled=pooled)
        self.keeps_argmax = pooled  # type: ignore[misc]
        self.thresholds_: Tensor
        self.values_: Tensor
        self.first_: Tensor
        self.declare("thresholds_", None)
        self.declare("values_", None)
        self.register_buffer("first_", torch.zeros(1 if pooled else num_classes, dtype=torch.int64))

    def fit_voxels(self, voxels: Voxels) -> None:
        """Find the monotone maps."""
        curves = []
        for k in [None] if self.options["pooled"] else range(self.num_classes):
            curves.append(_thresholds(*_points(voxels, k)))
        lengths = [len(x) for x, _ in curves]
        self.first_ = torch.tensor(np.cumsum([0, *lengths[:-1]]))
        self.thresholds_, self.values_ = (
            torch.from_numpy(np.concatenate(parts)) for parts in zip(*curves, strict=True)
        )

    def mapped(self, k: int, probs: Tensor) -> Tensor:
        """f_k, linear between the thresholds."""
        ends = [*self.first_.tolist(), len(self.thresholds_)]
        own = 0 if self.options["pooled"] else k
        x, y = (value[ends[own] : ends[own + 1]] for value in (self.thresholds_, self.values_))
        right = torch.searchsorted(x, probs.contiguous()).clamp(1, max(len(x) - 1, 1))
        if len(x) == 1:
            return y.expand_as(probs)
        left = right - 1
        share = ((probs - x[left]) / (x[right] - x[left])).clamp(0, 1)
        return y[left] + share * (y[right] - y[left])


class _Points(NamedTuple):
    """Distinct probabilities, rising, how many there are of each, and what share of them came true."""

    x: Array
    weight: Array
    y: Array


def _points(voxels: Voxels, k: int | None) -> _Points:
    """The points of class k, or of all classes."""
    if voxels.total * (1 if k is not None else voxels.num_classes) <= EXACT:
        pairs = [_pairs(*chunk[:2], k) for chunk in voxels.chunks()]
        p, hit = (np.concatenate(parts) for parts in zip(*pairs, strict=True))
        x, at = np.unique(p, return_inverse=True)
        weight = np.bincount(at, minlength=len(x)).astype(np.float64)
        return _Points(x, weight, np.bincount(at, hit, len(x)) / weight)
    sums = np.zeros((3, CELLS))
    for chunk in voxels.chunks():
        p, hit = _pairs(*chunk[:2], k)
        with np.errstate(divide="ignore"):
            odds = np.log(p) - np.log1p(-p)
        cell = ((np.clip(odds, -_SPAN, _SPAN) + _SPAN) / (2 * _SPAN) * (CELLS - 1)).astype(np.int64)
        for row, values in enumerate((None, p, hit)):
            sums[row] += np.bincount(cell, values, CELLS)
    n, p, hit = sums[:, sums[0] > 0]
    return _Points(p / n, n, hit / n)


def _pairs(logits: Tensor, labels: Tensor, k: int | None) -> tuple[Array, Array]:
    """Probabilities and 1 where they came true, of class k or of all classes."""
    p = logits.softmax(0).cpu().numpy()
    hit = np.arange(len(p))[:, None] == labels.cpu().numpy()
    return (p.ravel(), hit.ravel().astype(np.float64)) if k is None else (p[k], hit[k].astype(np.float64))


def _thresholds(x: Array, weight: Array, y: Array) -> tuple[Array, Array]:
    """Ends of the runs of equal fitted values, and the values."""
    from scipy.optimize import isotonic_regression

    fitted = isotonic_regression(y, weights=weight).x
    change = fitted[1:] != fitted[:-1]
    kept = np.r_[True, change] | np.r_[change, True]
    return x[kept], fitted[kept].clip(0, 1)
