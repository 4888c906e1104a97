"""Calibration over everything seen since `reset`, on all ranks: exact, in memory that does not grow.

ece = PooledCalibration(num_classes=4, region="foreground", from_logits=True)
for images, labels in loader:
    ece.update(model(images), labels)
ece.compute()
"""

from __future__ import annotations

from typing import Literal, get_args

import torch
from torch import Tensor

from medcalib.distributed import all_reduce_sum, reduction_device
from medcalib.metrics import CalibrationCounts
from medcalib.metrics.calibration import Edges
from medcalib.ops.inputs import check_tensor
from medcalib.ops.scoring import NUM_CELLS
from medcalib.options import check_option

__all__ = ["PooledCalibration"]

Score = Literal["ece", "classwise_ece", "ace_bins", "mce", "ece_equal_mass"]
Region = Literal["all", "foreground", "gt_foreground", "pred_foreground"]
_TABLES = ("n", "correct", "conf_hi", "conf_lo")


class PooledCalibration:
    """One score, pooled over the voxels of all batches and ranks.

    `score`, `bins` (a divisor of 300) and `edges` are those of `CalibrationCounts`; `region` is part of what is
    measured: `all` voxels, the `foreground` of reference or prediction, of the reference alone (`gt_foreground`) or of
    the prediction alone (`pred_foreground`). `from_logits` says what values are; they are never guessed.

    With several ranks, a `DistributedSampler` repeats images to fill up the last batch, and what is repeated counts
    twice; give each rank its own images instead. Voxels whose label is `ignore_index` are left out. Raises ValueError
    for options out of range.
    """

    def __init__(
        self,
        num_classes: int,
        *,
        score: Score = "ece",
        bins: int = 15,
        edges: Edges = "right",
        region: Region = "all",
        ignore_index: int | None = None,
        from_logits: bool = False,
    ) -> None:
        check_option("num_classes", num_classes, int)
        check_option("ignore_index", ignore_index, int | None)
        for name, value, known in (("score", score, get_args(Score)), ("region", region, get_args(Region))):
            if value not in known:
                raise ValueError(f"{name} must be one of {', '.join(known)}, got {value!r}")
        if num_classes < 2:
            raise ValueError(f"num_classes must be 2 or more, background included, got {num_classes}")
        self.num_classes = num_classes
        self.score, self.bins, self.edges, self.region = score, bins, edges, region
        self.ignore_index, self.from_logits = ignore_index, from_logits
        self.reset()
        self.score_of(self.tables)  # bins and edges are wrong now or never

    def reset(self) -> None:
        """Forget everything."""
        self.tables = self.zeros()

    def zeros(self) -> Tensor:
        """The tables of no voxel, (4, 1 + C, cells) int64."""
        return torch.zeros(len(_TABLES), 1 + self.num_classes, NUM_CELLS, dtype=torch.int64)

    def update(self, values: Tensor, labels: Tensor) -> None:
        """Add a batch: values (B, C, *S) against labels (B, *S), (B, 1, *S) or one-hot (B, C, *S).

        Raises ValueError as `tables_of`.
        """
        self.tables += self.tables_of(values, labels)

    def compute(self) -> Tensor:
        """The score over all ranks, float64: () or, classwise, (C,); NaN where no voxel was counted.

        A collective: with several ranks every one must call it; all get the same bits.
        """
        return self.score_of(all_reduce_sum(self.tables.to(reduction_device())).cpu())

    def tables_of(self, values: Tensor, labels: Tensor) -> Tensor:
        """The tables of values (B, C, *S) against labels: integers (B, *S) or (B, 1, *S), or one-hot (B, C, *S).

        Raises ValueError for other shapes, labels that are no classes, and values that are no probabilities (or, from
        logits, not finite).
        """
        check_tensor("values", values)
        if values.ndim < 3 or values.shape[1] != self.num_classes:
            raise ValueError(
                f"expected values (B, {self.num_classes}, *S), got {tuple(values.shape)}; axis 1 holds the classes, "
                f"num_classes={self.num_classes} of them, background included"
            )
        classes = class_indices(values, labels)
        mask = _inside(self.region, classes, values)
        make = CalibrationCounts.from_logits if self.from_logits else CalibrationCounts.from_probs
        counts = make(values, classes, ignore_index=self.ignore_index, mask=mask)
        return torch.stack([getattr(counts, name) for name in _TABLES])

    def score_of(self, tables: Tensor) -> Tensor:
        """The score of tables (4, 1 + C, cells), float64: () or, classwise, (C,); NaN where no voxel was counted."""
        counts = CalibrationCounts(*tables)
        if self.score == "ece_equal_mass":
            return torch.tensor(counts.ece_equal_mass(self.bins), dtype=torch.float64)
        value = getattr(counts, self.score)(self.bins, self.edges)
        return value if isinstance(value, Tensor) else torch.tensor(value, dtype=torch.float64)


def class_indices(values: Tensor, labels: Tensor) -> Tensor:
    """labels (B, *S), (B, 1, *S) or one-hot (B, C, *S), beside values (B, C, *S), as int64 (B, *S); else ValueError."""
    check_tensor("labels", labels)
    if labels.shape == values.shape:
        if not bool(((labels == 0) | (labels == 1)).all() and (labels.sum(1) == 1).all()):
            raise ValueError("labels of the shape of values must be one-hot; give integers (B, 1, *S) otherwise")
        return labels.argmax(1)
    if labels.ndim == values.ndim and labels.shape[1] == 1:
        labels = labels[:, 0]
    whole = labels.long()
    if labels.is_floating_point() and not bool((whole == labels).all()):
        raise ValueError("labels must be whole numbers, got fractions; were they resampled with interpolation?")
    return whole


def _inside(region: Region, labels: Tensor, values: Tensor) -> Tensor | None:
    if region == "all":
        return None
    reference, predicted = labels > 0, values.argmax(1).to(labels.device) > 0
    return {"foreground": reference | predicted, "gt_foreground": reference, "pred_foreground": predicted}[region]
