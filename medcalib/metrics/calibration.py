"""Calibration counts and the scores that are functions of them.

    counts = CalibrationCounts.from_probs(probs, labels)        # one case
    pooled = counts + CalibrationCounts.from_probs(more, their_labels)
    pooled.ece(bins=15), pooled.classwise_ece()

State is data: adding is associative and commutative to the last bit, `zeros` is its neutral element, and every
bin count and edge rule comes from the same counts.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor

from medcalib.metrics.checks import checked_probs, flat_voxels
from medcalib.ops.scoring import NUM_CELLS, ScoreTables, bin_of_cell, from_limbs, score_voxels

Edges = Literal["right", "left"]


class Reliability(NamedTuple):
    """One row a bin, float64: voxels, sum of confidences, sum of hits (or of the known posterior)."""

    n: Tensor
    confidence: Tensor
    accuracy: Tensor


@dataclass(frozen=True)
class CalibrationCounts:
    """Counts of one set of voxels: channel 0 is the top label, then the C classes, then composites.

    All (K, NUM_CELLS) int64: voxels `n`, hits `correct`, and fixed-point limbs of the summed confidences. With
    a known posterior, `truth_hi` and `truth_lo` hold the sums that the hits have in expectation.
    """

    n: Tensor
    correct: Tensor
    conf_hi: Tensor
    conf_lo: Tensor
    truth_hi: Tensor | None = None
    truth_lo: Tensor | None = None

    @classmethod
    def zeros(cls, num_classes: int, composites: int = 0) -> CalibrationCounts:
        """Counts of no voxel: the neutral element of `+`."""
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
        tables = _tables(checked_probs(probs), labels, ignore_index, mask, posterior, from_logits=False)
        return cls.of_region(tables, 0)

    @classmethod
    def from_logits(
        cls, logits: Tensor, labels: Tensor, *, ignore_index: int | None = None, mask: Tensor | None = None
    ) -> CalibrationCounts:
        """As `from_probs`, of the float64 softmax of logits (B, C, *S)."""
        if not bool(torch.isfinite(logits).all()):
            raise ValueError("logits hold NaN or infinite values")
        return cls.of_region(_tables(logits, labels, ignore_index, mask, None, from_logits=True), 0)

    @classmethod
    def of_region(cls, tables: ScoreTables, region: int) -> CalibrationCounts:
        """The counts of one region of score tables."""
        known = (
            {}
            if tables.truth_hi is None or tables.truth_lo is None
            else {
                "truth_hi": tables.truth_hi[region],
                "truth_lo": tables.truth_lo[region],
            }
        )
        return cls(tables.n[region], tables.correct[region], tables.conf_hi[region], tables.conf_lo[region], **known)

    def __add__(self, other: CalibrationCounts) -> CalibrationCounts:
        """Counts of both sets of voxels. A posterior is kept only if both have one (or one is empty)."""
        if self.n.shape != other.n.shape:
            raise ValueError(f"counts of different classes cannot be added: {self.n.shape} and {other.n.shape}")
        if not int(self.n.sum()):
            return other
        if not int(other.n.sum()):
            return self
        pairs = {f.name: (getattr(self, f.name), getattr(other, f.name)) for f in fields(self)}
        summed: dict[str, Any] = {k: None if a is None or b is None else a + b for k, (a, b) in pairs.items()}
        return CalibrationCounts(**summed)

    def __radd__(self, other: int) -> CalibrationCounts:
        """Lets `sum(counts)` start from 0."""
        return self if other == 0 else NotImplemented

    @property
    def has_posterior(self) -> bool:
        """Whether the true calibration error can be computed."""
        return self.truth_hi is not None

    def voxels(self, channel: int = 0) -> int:
        """Number of voxels counted."""
        return int(self.n[channel].sum())

    def reliability(
        self, channel: int = 0, *, bins: int = 15, edges: Edges = "right", true: bool = False
    ) -> Reliability:
        """Voxels, summed confidence and summed hits of each equal-width bin; `true` takes the posterior for hits."""
        target = torch.from_numpy(bin_of_cell(bins, edges))
        return self._grouped(channel, target, bins, true)

    def ece(self, bins: int = 15, edges: Edges = "right", *, true: bool = False) -> float:
        """Expected calibration error of the top label, sum_b n_b/N |mean confidence - accuracy|; NaN of no voxel.

        References: M. P. Naeini et al., AAAI 2015; C. Guo et al., ICML 2017, eq. 5. `true=True` replaces the
        sampled labels by the known posterior: the same bins without label noise.
        """
        return _expected_gap(self.reliability(0, bins=bins, edges=edges, true=true))

    def classwise_ece(self, bins: int = 15, edges: Edges = "right", *, true: bool = False) -> Tensor:
        """ECE of each class probability against its frequency, (C [+ composites],) float64; NaN where no voxel."""
        channels = range(1, self.n.shape[0])
        values = [_expected_gap(self.reliability(k, bins=bins, edges=edges, true=true)) for k in channels]
        return torch.tensor(values, dtype=torch.float64)

    def ace_bins(self, bins: int = 15, edges: Edges = "right", channel: int = 0) -> float:
        """Mean of the gap over the bins that hold voxels, each bin alike (what MONAI calls ACE)."""
        gaps = _gaps(self.reliability(channel, bins=bins, edges=edges))
        return float(gaps.mean()) if gaps.numel() else float("nan")

    def mce(self, bins: int = 15, edges: Edges = "right", channel: int = 0) -> float:
        """Largest gap of a bin that holds voxels."""
        gaps = _gaps(self.reliability(channel, bins=bins, edges=edges))
        return float(gaps.max()) if gaps.numel() else float("nan")

    def ece_equal_mass(self, bins: int = 15, channel: int = 0) -> float:
        """ECE over bins of (nearly) equal mass: fine cells in order, each put where its middle voxel falls.

        Equal confidences stay together, so the result does not depend on the order of voxels; a cell that holds
        more than a bin's share makes that bin larger.
        """
        n = self.n[channel]
        total = int(n.sum())
        if not total:
            return float("nan")
        before = n.cumsum(0) - n
        target = ((2 * before + n) * bins // (2 * total)).clamp_max(bins - 1)
        return _expected_gap(self._grouped(channel, target, bins, False))

    def _grouped(self, channel: int, target: Tensor, bins: int, true: bool) -> Reliability:
        if true and (self.truth_hi is None or self.truth_lo is None):
            raise ValueError("the true calibration error needs counts made with a known posterior")

        def total(table: Tensor) -> Tensor:
            return torch.zeros(bins, dtype=torch.int64).index_add_(0, target, table[channel])

        confidence = from_limbs(total(self.conf_hi), total(self.conf_lo))
        if true and self.truth_hi is not None and self.truth_lo is not None:
            accuracy = from_limbs(total(self.truth_hi), total(self.truth_lo))
        else:
            accuracy = total(self.correct).double()
        return Reliability(total(self.n).double(), confidence, accuracy)


def _gaps(curve: Reliability) -> Tensor:
    filled = curve.n > 0
    return (curve.confidence - curve.accuracy)[filled].abs() / curve.n[filled]


def _expected_gap(curve: Reliability) -> float:
    total = float(curve.n.sum())
    return float((curve.confidence - curve.accuracy).abs().sum() / total) if total else float("nan")


def _tables(
    values: Tensor,
    labels: Tensor,
    ignore_index: int | None,
    mask: Tensor | None,
    posterior: Tensor | None,
    *,
    from_logits: bool,
) -> ScoreTables:
    flat, flat_labels, counted = flat_voxels(values, labels, ignore_index, mask)
    known: Tensor | None = None
    if posterior is not None:
        known = flat_voxels(posterior, labels, ignore_index, mask)[0]
    return score_voxels(flat, flat_labels, counted[None], posterior=known, from_logits=from_logits)
