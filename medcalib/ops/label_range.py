"""Which labels count, and the message for those that are out of range."""

from __future__ import annotations

import torch
from torch import Tensor

LEAVE_OUT = "leave such voxels out of the regions"


def label_range_error(
    low: int, high: int, num_classes: int, ignore_index: int | None, fix: str | None = None
) -> ValueError:
    """What was expected, what came, and the fix. `low` and `high` are those of the labels that are not ignored."""
    culprit, last = low if low < 0 else high, num_classes - 1
    if fix is None and ignore_index is None:
        fix = f"pass ignore_index={culprit} if it marks ignored voxels, else map the labels to 0..{last}"
    elif fix is None:
        fix = f"ignored are only voxels labelled {ignore_index}"
    return ValueError(f"labels must lie in 0..{last}, got {low}..{high}; {fix}")


def not_ignored(labels: Tensor, ignore_index: int | None) -> Tensor:
    """Which labels count, bool. What their type cannot hold is no label: torch alone takes 255 in uint8 for -1."""
    if ignore_index is None or not _holds(labels.dtype, ignore_index):
        return torch.ones_like(labels, dtype=torch.bool)
    return labels != ignore_index


def _holds(dtype: torch.dtype, value: int) -> bool:
    if dtype.is_floating_point or dtype == torch.bool:
        return True
    return torch.iinfo(dtype).min <= value <= torch.iinfo(dtype).max
