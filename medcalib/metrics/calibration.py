"""Calibration counts and the scores that are functions of them.

    counts = CalibrationCounts.from_probs(probs, labels)        # one case
    pooled = counts + CalibrationCounts.from_probs(more, their_labels)
    pooled.ece(bins=15), pooled.classwise_ece()

State is data: adding is associative and commutative to the last bit, `zeros` is its neutral element, and every
bin count and edge rule comes from the same counts.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields
from functools import lru_cache
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor

from medcalib.metrics.checks import checked_logits, checked_probs, flat_voxels
from medcalib.metrics.products import ProductSums
from medcalib.ops.scoring import NUM_CELLS, ScoreTables, bin_of_cell, from_limbs, score_voxels

Edges = Literal["right", "left"]


class Reliability(NamedTuple):
    """A curve, float64, one entry a bin: (bins,), or (K, bins) for K channels.

    `n` voxels; `confidence` and `accuracy` are sums over them: of the confidence, and of the hits (or of the known
    posterior). Divide by `n` for means.
    """

    n: Tensor
    confidence: Tensor
    accuracy: Tensor

    def row(self, channel: int) -> Reliability:
        """The curve of one channel."""
        return Reliability(*(part[channel] for part in self))


@dataclass(frozen=True)
class CalibrationCounts:
    """Counts of one set of voxels: channel 0 is the top label, then the C classes, then composites.

    All (K, NUM_CELLS) int64: voxels `n`, hits `correct`, and fixed-point limbs of the summed confidences. With
    a known posterior, `truth_hi` and `truth_lo` hold the sums that the hits have in expectation. For the Brier score
    of each channel, limbs (K, 2) of the summed squares `square` and of the summed probabilities of the hits `product`
    (whose row 0 is unused). `conf_hi` and `conf_lo` are those limbs.
    """

    n: Tensor
    correct: Tensor
    conf_hi: Tensor
    conf_lo: Tensor
    truth_hi: Tensor | None = None
    truth_lo: Tensor | None = None
    square: Tensor | None = None
    product: Tensor | None = None

    @classmethod
    def zeros(cls, num_classes: int, composites: int = 0) -> CalibrationCounts:
        """Counts of no voxel: the neutral element of `+`. For `num_classes` classes and so many `composites`."""
        empty = torch.zeros(1 + num_classes + composites, NUM_CELLS, dtype=torch.int64)
        return cls(empty, empty, empty, empty)

    @classmethod
    def from_probs(
        cls,
        probs: Tensor,
        labels: Tensor,
        *,
        ignore_index: int | None = None,
        mask: Tensor | None = None,
        posterior: Tensor | None = None,
    ) -> CalibrationCounts:
        """Counts of probs (B, C, *S) against labels (B, *S), over voxels that are valid and in `mask` (B, *S).

        Raises ValueError when probabilities are not finite, leave [0, 1] or do not sum to 1 within 1e-3.
        `posterior` (B, C, *S) is a known class posterior (of a phantom).
        """
        flat, flat_labels, counted = flat_voxels(checked_probs(probs), labels, ignore_index, mask)
        if posterior is not None and posterior.shape != probs.shape:
            raise ValueError(f"expected a posterior {tuple(probs.shape)} like probs, got {tuple(posterior.shape)}")
        known = None if posterior is None else flat_voxels(checked_probs(posterior), labels, ignore_index, mask)[0]
        tables = score_voxels(flat, flat_labels, counted[None], posterior=known)
        products = ProductSums([(k,) for k in range(flat.shape[0])], regions=1)
        products.add(flat, flat_labels, counted[None])
        return cls.of_region(tables, 0, products.limbs(tables))

    @classmethod
    def from_logits(
        cls, logits: Tensor, labels: Tensor, *, ignore_index: int | None = None, mask: Tensor | None = None
    ) -> CalibrationCounts:
        """As `from_probs`, of the float64 softmax of logits (B, C, *S).

        labels (B, *S) and mask (B, *S) as there. Raises ValueError for logits that are not finite, too.
        """
        flat, flat_labels, counted = flat_voxels(checked_logits(logits), labels, ignore_index, mask)
        return cls.of_region(score_voxels(flat, flat_labels, counted[None], from_logits=True), 0)

    @classmethod
    def of_region(cls, tables: ScoreTables, region: int, products: Tensor | None = None) -> CalibrationCounts:
        """The counts of one region of score tables; `products` (R, K, 2) as in `ProductSums`."""
        names = ("n", "correct", "conf_hi", "conf_lo", "truth_hi", "truth_lo", "square")
        found: dict[str, Any] = {
            name: None if (table := getattr(tables, name)) is None else table[region] for name in names
        }
        return cls(**found, product=None if products is None else products[region])

    def __add__(self, other: CalibrationCounts) -> CalibrationCounts:
        """Counts of both sets of voxels. A posterior is kept only if both have one (or one is empty)."""
        if not isinstance(other, CalibrationCounts):
            return NotImplemented
        if self.n.shape != other.n.shape:
            raise ValueError(
                "counts of different classes cannot be added: they have "
                f"{self.n.shape[0] - 1} and {other.n.shape[0] - 1}, composites included; count all cases alike"
            )
        if not int(self.n.sum()):
            return other
        if not int(other.n.sum()):
            return self
        pairs = {f.name: (getattr(self, f.name), getattr(other, f.name)) for f in fields(self)}
        summed: dict[str, Any] = {k: None if a is None or b is None else a + b for k, (a, b) in pairs.items()}
        return CalibrationCounts(**summed)

    def mapped(self, change: Callable[[Tensor], Tensor]) -> CalibrationCounts:
        """Counts of which `change`, a function of a table of any shape, was applied to every table that is there."""
        changed: dict[str, Any] = {k: None if t is None else change(t) for k, t in vars(self).items()}
        return CalibrationCounts(**changed)

    def __radd__(self, other: int) -> CalibrationCounts:
        """Lets `sum(counts)` start from 0."""
        return self if other == 0 else NotImplemented

    @property
    def has_posterior(self) -> bool:
        """Whether the true calibration error can be computed."""
        return self.truth_hi is not None

    def voxels(self, channel: int = 0) -> int:
        """Number of voxels counted. Raises ValueError for a channel that is not there."""
        return int(self.n[self._row(channel)].sum())

    def reliability(
        self, channel: int = 0, *, bins: int = 15, edges: Edges = "right", true: bool = False
    ) -> Reliability:
        """Voxels, summed confidence and summed hits of each equal-width bin; `true` takes the posterior for hits.

        Raises ValueError for a channel that is not there.
        """
        row = self._row(channel)
        return self._grouped(slice(row, row + 1), bins, edges, true).row(0)

    def binned(self, bins: int = 15, edges: Edges = "right") -> Reliability:
        """`reliability` of all K channels at once, (K, bins)."""
        return self._grouped(slice(None), bins, edges, False)

    def ece(self, bins: int = 15, edges: Edges = "right", *, true: bool = False) -> float:
        """Expected calibration error of the top label, sum_b n_b/N |mean confidence - accuracy|; NaN of no voxel.

        References: M. P. Naeini et al., AAAI 2015; C. Guo et al., ICML 2017, eq. 5. `true=True` replaces the
        sampled labels by the known posterior: the same bins without label noise.
        """
        return float(expected_gap(self.reliability(0, bins=bins, edges=edges, true=true)))

    def classwise_ece(self, bins: int = 15, edges: Edges = "right", *, true: bool = False) -> Tensor:
        """ECE of each class probability against its frequency, (C [+ composites],) float64; NaN where no voxel.

        `true`: against the known posterior, see `ece`.
        """
        return expected_gap(self._grouped(slice(1, None), bins, edges, true))

    def ace_bins(self, bins: int = 15, edges: Edges = "right", channel: int = 0) -> float:
        """Mean of the gap over the bins that hold voxels, each bin alike (what MONAI calls ACE)."""
        gaps = _gaps(self.reliability(channel, bins=bins, edges=edges))
        return float(gaps.mean()) if gaps.numel() else float("nan")

    def classwise_ace_bins(self, bins: int = 15, edges: Edges = "right") -> Tensor:
        """`ace_bins` of each class probability, (C [+ composites],) float64."""
        return torch.tensor([self.ace_bins(bins, edges, k) for k in range(1, self.n.shape[0])], dtype=torch.float64)

    def classwise_mce(self, bins: int = 15, edges: Edges = "right") -> Tensor:
        """`mce` of each class probability, (C [+ composites],) float64."""
        return torch.tensor([self.mce(bins, edges, k) for k in range(1, self.n.shape[0])], dtype=torch.float64)

    def accuracy(self) -> float:
        """Share of voxels whose top label is right; NaN of no voxel."""
        return float(self.correct[0].sum().double() / self.n[0].sum())  # int64 alone would give float32

    def mce(self, bins: int = 15, edges: Edges = "right", channel: int = 0) -> float:
        """Largest gap of a bin that holds voxels."""
        gaps = _gaps(self.reliability(channel, bins=bins, edges=edges))
        return float(gaps.max()) if gaps.numel() else float("nan")

    def ece_equal_mass(self, bins: int = 15, channel: int = 0) -> float:
        """ECE over bins of (nearly) equal mass: fine cells in order, each put where its middle voxel falls.

        Equal confidences stay together, so the result does not depend on the order of voxels; a cell that holds
        more than a bin's share makes that bin larger. Raises ValueError for fewer than one bin.
        """
        if not isinstance(bins, int) or bins < 1:
            raise ValueError(f"bins must be a whole number of 1 or more, got {bins!r}")
        channel = self._row(channel)
        n = self.n[channel]
        total = int(n.sum())
        if not total:
            return float("nan")
        before = n.cumsum(0) - n
        target = ((2 * before + n) * bins // (2 * total)).clamp_max(bins - 1)
        return float(expected_gap(_total(self, slice(channel, channel + 1), target, bins, False).row(0)))

    def _row(self, channel: int) -> int:
        if not isinstance(channel, int) or not 0 <= channel < len(self.n):
            raise ValueError(
                f"channel must lie in 0..{len(self.n) - 1} (0 is the top label, k + 1 is class k), got {channel!r}"
            )
        return channel

    def _grouped(self, channels: slice, bins: int, edges: Edges, true: bool) -> Reliability:
        return _total(self, channels, _bin_targets(bins, edges), bins, true)


def _total(counts: CalibrationCounts, channels: slice, target: Tensor, bins: int, true: bool) -> Reliability:
    """Tables of some channels summed over the cells that go into each bin."""

    def total(table: Tensor) -> Tensor:
        rows = table[channels]
        return torch.zeros(rows.shape[0], bins, dtype=torch.int64).index_add_(1, target, rows)

    if true and (counts.truth_hi is None or counts.truth_lo is None):
        raise ValueError("true=True needs counts made with a known posterior: from_probs(..., posterior=...)")
    confidence = from_limbs(total(counts.conf_hi), total(counts.conf_lo))
    if true and counts.truth_hi is not None and counts.truth_lo is not None:
        accuracy = from_limbs(total(counts.truth_hi), total(counts.truth_lo))
    else:
        accuracy = total(counts.correct).double()
    return Reliability(total(counts.n).double(), confidence, accuracy)


@lru_cache(maxsize=64, typed=True)
def _bin_targets(bins: int, edges: str) -> Tensor:
    """The bin of each cell, made once: a summary asks for it a hundred thousand times."""
    return torch.from_numpy(bin_of_cell(bins, edges))


def _gaps(curve: Reliability) -> Tensor:
    filled = curve.n > 0
    return (curve.confidence - curve.accuracy)[filled].abs() / curve.n[filled]


def expected_gap(curve: Reliability) -> Tensor:
    """sum_b |confidence - hits| / N over the last axis, NaN where there is no voxel.

    `curve`: of `CalibrationCounts.binned`.
    """
    return (curve.confidence - curve.accuracy).abs().sum(-1) / curve.n.sum(-1)
