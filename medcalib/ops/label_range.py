"""The message for labels out of range."""

from __future__ import annotations


def label_range_error(low: int, high: int, num_classes: int, ignore_index: int | None) -> ValueError:
    """What was expected, what came, and the fix. `low` and `high` are those of the labels that are not ignored."""
    culprit = low if low < 0 else high
    hint = (
        f"; pass ignore_index={culprit} if it marks ignored voxels"
        if ignore_index is None
        else f"; ignored are only voxels labelled {ignore_index}"
    )
    return ValueError(f"labels must lie in 0..{num_classes - 1}, got {low}..{high}{hint}")
