"""A MONAI metric: `CalibrationErrorMetric` without its float32 sums and without a buffer that grows."""

from __future__ import annotations

from typing import Any

import torch
from monai.metrics import CumulativeIterationMetric
from monai.metrics.metric import IterationMetric
from torch import Tensor

from medcalib.integrations.pooled import PooledCalibration

__all__ = ["PooledCalibrationMetric"]


class PooledCalibrationMetric(CumulativeIterationMetric):  # type: ignore[misc] # MONAI is not typed
    """`metric(y_pred, y)` on each batch, `aggregate()` for the score over all voxels and ranks, then `reset()`.

    Options are those of `PooledCalibration`. `y_pred` (B, C, *S) and `y` (B, 1, *S), (B, *S) or one-hot (B, C, *S), or
    lists of them without B, as `decollate_batch` makes them. A call returns the score of each image, (B, 1) or,
    classwise, (B, C); `aggregate` pools, which is not the mean of those. `get_buffer()` is None: nothing is kept of
    single images. `num_classes` is C, background included.
    """

    def __init__(self, num_classes: int, **options: Any) -> None:
        self.pooled = PooledCalibration(num_classes, **options)
        super().__init__()

    def __call__(self, y_pred: Any, y: Any = None, **kwargs: Any) -> Any:
        """Add a batch; returns the score of each image."""
        if y is not None and hasattr(y_pred, "__len__") and hasattr(y, "__len__") and len(y_pred) != len(y):
            raise ValueError(f"expected labels of as many images as y_pred has, {len(y_pred)}, got {len(y)}")
        return IterationMetric.__call__(self, y_pred, y, **kwargs)  # the parent's would store every image's numbers

    def _compute_tensor(self, y_pred: Tensor, y: Tensor | None = None, **kwargs: Any) -> Tensor:
        if y is None:
            raise ValueError("expected labels y beside y_pred: call metric(y_pred, y)")
        scores = []
        for values, labels in zip(y_pred, y, strict=True):
            tables = self.pooled.tables_of(values[None], labels[None])
            self.pooled.tables += tables
            scores.append(self.pooled.score_of(tables).reshape(-1))
        return torch.stack(scores)

    def aggregate(self) -> Tensor:
        """The pooled score of all ranks, float64 () or, classwise, (C,). A collective."""
        return self.pooled.compute()

    def reset(self) -> None:
        """Forget everything."""
        super().reset()
        self.pooled.reset()
