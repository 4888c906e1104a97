"""A torchmetrics `Metric`, as Lightning logs it. Importing this raises `MissingExtraError` without torchmetrics;

`medcalib.integrations.pooled.PooledCalibration` has the same update, compute and reset, and needs no library.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor

from medcalib.errors import MissingExtraError
from medcalib.integrations.pooled import PooledCalibration

try:
    from torchmetrics import Metric
except ImportError:
    raise MissingExtraError("torchmetrics", "torchmetrics") from None

__all__ = ["PooledCalibrationError"]


class PooledCalibrationError(Metric):  # type: ignore[misc] # torchmetrics is not followed by mypy
    """The score over all voxels of all batches and ranks; options are those of `PooledCalibration`.

    `preds` (B, C, *S) and `target` (B, *S), (B, 1, *S) or one-hot (B, C, *S). The state is one int64 tensor, which
    torchmetrics sums over ranks. The score is computed on the CPU, in float64. `num_classes`, `bins`, `edges`,
    `region`, `ignore_index` and `from_logits` have their meanings there.
    """

    is_differentiable = False
    higher_is_better = False
    full_state_update = False
    tables: Tensor

    def __init__(
        self,
        num_classes: int,
        *,
        score: str = "ece",
        bins: int = 15,
        edges: str = "right",
        region: str = "all",
        ignore_index: int | None = None,
        from_logits: bool = False,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        options: dict[str, Any] = {"score": score, "bins": bins, "edges": edges, "region": region}
        self.pooled = PooledCalibration(num_classes, ignore_index=ignore_index, from_logits=from_logits, **options)
        self.add_state("tables", default=self.pooled.zeros(), dist_reduce_fx="sum")

    def update(self, preds: Tensor, target: Tensor) -> None:
        """Add a batch."""
        self.tables += self.pooled.tables_of(preds, target).to(self.tables.device)

    def compute(self) -> Tensor:
        """The score, float64: () or, classwise, (C,)."""
        return self.pooled.score_of(self.tables.cpu())
