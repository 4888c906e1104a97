"""Input checks that the metrics share: probabilities are checked, never repaired or guessed."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import torch
from torch import Tensor

SUM_TOLERANCE = 1e-3
OVERSHOOT = 1e-6  # what averaging and interpolation in float32 leave beyond [0, 1]


def checked_probs(probs: Tensor, *, exclusive: bool = True) -> Tensor:
    """probs (B, C, *S) clamped to [0, 1], which changes rounding only.

    Raises ValueError unless they are finite, within 1e-6 of [0, 1] and, where classes are `exclusive`, sum to 1 over
    C within 1e-3.
    """
    probs = probs.detach()
    low, high = (float(v) for v in probs.aminmax()) if probs.numel() else (0.0, 1.0)
    if not low == low or not high == high or high == float("inf"):
        raise ValueError("probabilities hold NaN or infinite values")
    if low < -OVERSHOOT or high > 1 + OVERSHOOT:
        hint = ""
        if 1.01 < high <= 100 and low >= 0:
            hint = "; if these are percentages, divide by 100"
        elif high > 1.01 or low < -0.01:
            hint = "; they look like logits: apply softmax first"
        raise ValueError(f"probabilities must lie in [0, 1], got {low!r}..{high!r}{hint}")
    for image in probs if exclusive else ():
        worst = float((image.sum(0, dtype=torch.float64) - 1).abs().max()) if image.numel() else 0.0
        if worst > SUM_TOLERANCE:
            raise ValueError(
                f"probabilities must sum to 1 over the {probs.shape[1]} classes, the worst voxel is off by {worst:.3g}"
            )
    return probs if low >= 0 and high <= 1 else probs.clamp(0, 1)


def flat_voxels(
    values: Tensor, labels: Tensor, ignore_index: int | None, mask: Tensor | None
) -> tuple[Tensor, Tensor, Tensor]:
    """values (B, C, *S) as (C, N), labels and counted voxels as (N,), after checking shapes and label range."""
    values, labels = values.detach().cpu().as_subclass(torch.Tensor), labels.cpu().as_subclass(torch.Tensor)
    expected = (values.shape[0], *values.shape[2:])
    if values.ndim < 3 or labels.shape != expected:
        raise ValueError(
            f"expected labels {expected} beside (B, C, *S) {tuple(values.shape)}, got {tuple(labels.shape)}"
        )
    if mask is not None and mask.shape != expected:
        raise ValueError(f"expected a mask {expected}, got {tuple(mask.shape)}")
    counted = torch.ones_like(labels, dtype=torch.bool) if mask is None else mask.cpu().bool()
    if ignore_index is not None:
        counted = counted & (labels != ignore_index)
    classes = values.shape[1]
    _check_range(labels[counted], classes)
    if values.dtype in (torch.float16, torch.bfloat16):
        values = values.float()
    return values.movedim(1, 0).reshape(classes, -1), labels.reshape(-1), counted.reshape(-1)


def checked_labels(labels: Tensor, num_classes: int, ignore_index: int | None) -> Tensor:
    """Labels (*S) as a plain contiguous tensor on the CPU. Raises ValueError for values out of 0..num_classes-1."""
    labels = labels.detach().cpu().as_subclass(torch.Tensor).contiguous()
    # picking the valid ones out would take 24 bytes a voxel for their places
    seen = labels if ignore_index is None else labels.where(labels != ignore_index, labels.new_zeros(()))
    _check_range(seen, num_classes)
    return labels


def checked_masks(masks: Mapping[str, Tensor], shape: Sequence[int], taken: Iterable[str]) -> dict[str, Tensor]:
    """The user's masks as (*S) bool tensors. Raises ValueError for names in use, other shapes, and values but 0, 1."""
    found = {}
    for name, mask in masks.items():
        mask = mask.detach().cpu().as_subclass(torch.Tensor)
        if name in taken or "/" in name or not name:
            raise ValueError(f"a mask cannot be called {name!r}: it is a region's name, empty, or holds a /")
        if mask.shape != tuple(shape):
            raise ValueError(
                f"mask {name!r} has shape {tuple(mask.shape)}, expected that of the labels, {tuple(shape)}"
            )
        if mask.dtype != torch.bool and not bool(((mask == 0) | (mask == 1)).all()):
            raise ValueError(f"mask {name!r} must hold only 0 and 1")
        found[name] = mask.bool()
    return found


def _check_range(seen: Tensor, classes: int) -> None:
    if seen.numel() and (int(seen.min()) < 0 or int(seen.max()) >= classes):
        raise ValueError(
            f"labels must lie in 0..{classes - 1}, got {int(seen.min())}..{int(seen.max())}; "
            "pass ignore_index if a value marks ignored voxels"
        )
