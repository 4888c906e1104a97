"""Overlap counts and Dice, IoU, precision and recall."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from medcalib.metrics.calibration import CalibrationCounts
from medcalib.metrics.cells import cell_of_multiple
from medcalib.ops.scoring import GRID


@dataclass(frozen=True)
class OverlapCounts:
    """True positives `tp`, false positives `fp` and false negatives `fn` of each class (C [+ composites],), int64."""

    tp: Tensor
    fp: Tensor
    fn: Tensor

    @classmethod
    def zeros(cls, num_classes: int) -> OverlapCounts:
        """Counts of no voxel: the neutral element of `+`. For `num_classes` classes, composites counted as such."""
        empty = torch.zeros(num_classes, dtype=torch.int64)
        return cls(empty, empty, empty)

    @classmethod
    def from_confusion(cls, confusion: Tensor, composites: Sequence[Sequence[int]] = ()) -> OverlapCounts:
        """Counts from a confusion matrix (C, C), reference x prediction; a composite is a union of classes."""
        groups = [[k] for k in range(confusion.shape[0])] + [list(c) for c in composites]
        tp = torch.stack([confusion[g][:, g].sum() for g in groups])
        predicted = torch.stack([confusion[:, g].sum() for g in groups])
        reference = torch.stack([confusion[g].sum() for g in groups])
        return cls(tp, predicted - tp, reference - tp)

    @classmethod
    def from_counts(cls, counts: CalibrationCounts) -> OverlapCounts:
        """Counts of independent binary channels, each predicted where p > 0.5."""
        above = torch.arange(counts.n.shape[1]) > cell_of_multiple(GRID // 2)
        n, hits = counts.n[1:], counts.correct[1:]
        tp = (hits * above).sum(-1)
        return cls(tp, (n * above).sum(-1) - tp, hits.sum(-1) - tp)

    def __add__(self, other: OverlapCounts) -> OverlapCounts:
        if self.tp.shape != other.tp.shape:
            raise ValueError(
                f"counts of different classes cannot be added: they have {len(self.tp)} and {len(other.tp)}, "
                "composites included; count all cases alike"
            )
        return OverlapCounts(self.tp + other.tp, self.fp + other.fp, self.fn + other.fn)

    def dice(self) -> Tensor:
        """2 tp / (2 tp + fp + fn) of each class, float64.

        NaN where a class is in neither reference nor prediction; 0 where it is in only one of them.
        """
        return 2 * self.tp.double() / (2 * self.tp + self.fp + self.fn)

    def iou(self) -> Tensor:
        """tp / (tp + fp + fn), NaN as in `dice`."""
        return self.tp.double() / (self.tp + self.fp + self.fn)

    def precision(self) -> Tensor:
        """tp / (tp + fp); NaN where nothing is predicted."""
        return self.tp.double() / (self.tp + self.fp)

    def recall(self) -> Tensor:
        """tp / (tp + fn); NaN where nothing is there."""
        return self.tp.double() / (self.tp + self.fn)
