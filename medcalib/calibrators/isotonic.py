"""Isotonic regression of class probabilities on what came true."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from medcalib.calibrators.steps import MappedProbabilities
from medcalib.calibrators.voxels import Voxels

EXACT = 1 << 22  # probabilities that are sorted as they are; more are counted in cells of their log-odds
CELLS = 1 << 17
TOGETHER = 16  # classes counted in one pass: 48 MiB
_SPAN = 40.0  # log-odds -40..40: beyond, a probability is 0 or 1 to float64
Array = NDArray[np.float64]


class Isotonic(MappedProbabilities):
    """The monotone f that minimizes the mean squared error of f(p_k) against [the label is k].

    `pooled=True` fits one f to the probabilities of all classes (multi-class isotonic regression), a monotone map
    that keeps the arg-max; `pooled=False` one f_k a class (one-vs-rest), which may change it. Between the fitted
    steps f is linear, outside constant. Rows are divided by their sum, which the official code leaves out.

    More than 4 million probabilities (voxels times classes) are first counted in 131,072 cells of log-odds 0.0006
    wide, which takes memory of one size for any number of voxels.

    Reference: J. Zhang et al., Mix-n-Match, ICML 2020 (pooled, with the 1e-9 p that breaks ties);
    B. Zadrozny and C. Elkan, Transforming classifier scores into accurate multiclass probability estimates, KDD 2002.
    """

    name = "isotonic"
    formula = "f_k(p_k) + 1e-9 p_k, rows divided by their sum; f_k linear between thresholds_ of class k, values_ there"
    reference = "J. Zhang et al., ICML 2020; B. Zadrozny and C. Elkan, KDD 2002"

    def __init__(self, num_classes: int, *, pooled: bool = True) -> None:
        super().__init__(num_classes, pooled=pooled)
        self.keeps_argmax = pooled  # type: ignore[misc]
        self.thresholds_: Tensor
        self.values_: Tensor
        self.first_: Tensor
        self.declare("thresholds_", None, low=0, high=1)
        self.declare("values_", None, low=0, high=1)
        self.register_buffer("first_", torch.zeros(1 if pooled else num_classes, dtype=torch.int64))

    def fit_voxels(self, voxels: Voxels) -> None:
        """Find the monotone maps."""
        exact = voxels.total * voxels.num_classes <= EXACT
        points = (_exact_points if exact else _counted_points)(voxels, pooled=self.options["pooled"])
        curves = [_thresholds(*own) for own in points]
        lengths = [len(x) for x, _ in curves]
        self.first_ = torch.tensor(np.cumsum([0, *lengths[:-1]]))
        self.thresholds_, self.values_ = (
            torch.from_numpy(np.concatenate(parts)) for parts in zip(*curves, strict=True)
        )

    def set_parameters(self, parameters: dict[str, Tensor]) -> None:
        """As `Calibrator.set_parameters`, of parameters (...) by name.

        Raises ValueError, too, for curves of another length than they say.
        """
        super().set_parameters(parameters)
        ends = torch.tensor([*self.first_.tolist(), len(self.thresholds_)])
        if self.values_.shape != self.thresholds_.shape or self.values_.ndim != 1 or bool((ends.diff() < 1).any()):
            raise ValueError("the curves of thresholds_, values_ and first_ do not fit together; fit again")
        if int(ends[0]) != 0:
            raise ValueError(f"first_ must begin with 0, got {int(ends[0])}")

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


def _exact_points(voxels: Voxels, *, pooled: bool) -> Iterator[_Points]:
    """The points of all classes together, or class by class."""
    pairs = [_pairs(*chunk[:2]) for chunk in voxels.chunks()]
    probs, hits = (torch.cat(parts, 1).cpu().numpy() for parts in zip(*pairs, strict=True))
    for p, hit in [(probs.ravel(), hits.ravel())] if pooled else zip(probs, hits, strict=True):
        x, at = np.unique(p, return_inverse=True)
        weight = np.bincount(at, minlength=len(x)).astype(np.float64)
        yield _Points(x, weight, np.bincount(at, hit, len(x)) / weight)


def _counted_points(voxels: Voxels, *, pooled: bool) -> Iterator[_Points]:
    """The same with the mean of each cell for the probabilities in it; some classes a pass."""
    classes = voxels.num_classes
    for first in range(0, classes, classes if pooled else TOGETHER):
        last = classes if pooled else min(first + TOGETHER, classes)
        sums = torch.zeros(3, (1 if pooled else last - first) * CELLS, dtype=torch.float64)
        for chunk in voxels.chunks():
            p, hit = (value[first:last].cpu() for value in _pairs(*chunk[:2]))
            odds = (p.log() - torch.log1p(-p)).clamp_(-_SPAN, _SPAN)
            cell = odds.add_(_SPAN).mul_((CELLS - 1) / (2 * _SPAN)).long()
            if not pooled:
                cell += CELLS * torch.arange(last - first)[:, None]
            for row, values in enumerate((torch.ones_like(p), p, hit)):
                sums[row].index_add_(0, cell.flatten(), values.flatten())
        for n, total, hits in sums.reshape(3, -1, CELLS).numpy().swapaxes(0, 1):
            seen = n > 0
            yield _Points(total[seen] / n[seen], n[seen], hits[seen] / n[seen])


def _pairs(logits: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Probabilities (C, n), and 1 where they came true."""
    p = logits.softmax(0)
    return p, torch.zeros_like(p).scatter_(0, labels[None], 1.0)


def _thresholds(x: Array, weight: Array, y: Array) -> tuple[Array, Array]:
    """Ends of the runs of equal fitted values, and the values."""
    from scipy.optimize import isotonic_regression

    fitted = isotonic_regression(y, weights=weight).x
    change = fitted[1:] != fitted[:-1]
    kept = np.r_[True, change] | np.r_[change, True]
    return x[kept], fitted[kept].clip(0, 1)
