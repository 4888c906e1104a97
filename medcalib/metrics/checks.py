"""Input checks that the metrics share: probabilities are checked, never repaired or guessed."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping, Sequence

import torch
from torch import Tensor

from medcalib.ops.inputs import check_label_type, check_tensor, look_like_probabilities
from medcalib.ops.label_range import label_range_error, not_ignored
from medcalib.options import check_option

log = logging.getLogger(__name__)
SUM_TOLERANCE = 1e-3
_WHY = "; has the network diverged, or half precision overflowed?"
OVERSHOOT = 1e-6  # what averaging and interpolation in float32 leave beyond [0, 1]


def checked_probs(probs: Tensor, *, exclusive: bool = True) -> Tensor:
    """probs (B, C, *S) clamped to [0, 1], which changes rounding only.

    Raises ValueError unless they are finite, within 1e-6 of [0, 1] and, where classes are `exclusive`, sum to 1 over
    C within 1e-3.
    """
    check_tensor("probs", probs)
    probs = probs.detach()
    low, high = (float(v) for v in probs.aminmax()) if probs.numel() else (0.0, 1.0)
    if not low == low or not high == high or high == float("inf"):
        raise ValueError(f"probabilities hold NaN or infinite values{_WHY}")
    if low < -OVERSHOOT or high > 1 + OVERSHOOT:
        hint = ""
        if 1.01 < high <= 100 and low >= 0:
            hint = "; if these are percentages, divide by 100"
        elif high > 1.01 or low < -0.01:
            hint = "; they look like logits: take their softmax over the classes first, or say that they are logits"
        raise ValueError(f"probabilities must lie in [0, 1], got {low!r}..{high!r}{hint}")
    for image in probs if exclusive else ():
        worst = float((image.sum(0, dtype=torch.float64) - 1).abs().max()) if image.numel() else 0.0
        if worst > SUM_TOLERANCE:
            raise ValueError(
                f"probabilities must sum to 1 over the {probs.shape[1]} classes, the worst voxel is off by {worst:.3g}"
                f"; {_why_not_one(probs)}"
            )
    return probs if low >= 0 and high <= 1 else probs.clamp(0, 1)


def _why_not_one(probs: Tensor) -> str:
    if probs.dtype in (torch.float16, torch.bfloat16):
        return f"{probs.dtype} is too coarse, take the softmax of logits.float()"
    return "was it a softmax (no sigmoid), over the class axis?"


def checked_logits(logits: Tensor) -> Tensor:
    """Logits (B, C, *S) as they are, with a warning where they look like probabilities. ValueError unless finite."""
    check_tensor("logits", logits)
    if not logits.is_floating_point():
        raise ValueError(f"logits must be floating-point numbers, got {logits.dtype}")
    if not bool(torch.isfinite(logits).all()):
        raise ValueError(f"logits hold NaN or infinite values{_WHY}")
    if look_like_probabilities(logits):
        log.warning("the logits lie in [0, 1] and sum to 1 over the classes, as probabilities do; if they are, say so")
    return logits


def flat_voxels(
    values: Tensor, labels: Tensor, ignore_index: int | None, mask: Tensor | None
) -> tuple[Tensor, Tensor, Tensor]:
    """values (B, C, *S) as (C, N), labels and counted voxels as (N,), after checking shapes and label range."""
    check_tensor("labels", labels)
    check_option("ignore_index", ignore_index, int | None)
    values, labels = values.detach().cpu().as_subclass(torch.Tensor), labels.cpu().as_subclass(torch.Tensor)
    expected = (values.shape[0], *values.shape[2:])
    if values.ndim < 3 or labels.shape != expected:
        raise ValueError(
            f"expected labels {expected} beside (B, C, *S) {tuple(values.shape)}, got {tuple(labels.shape)}; labels "
            "have no channel axis, both have a batch axis"
        )
    check_label_type(labels)
    counted = not_ignored(labels, ignore_index)
    if mask is not None:
        counted = counted & _checked_mask("mask", mask, expected)
    classes = values.shape[1]
    _check_range(labels[counted], classes, ignore_index)
    if values.dtype in (torch.float16, torch.bfloat16):
        values = values.float()
    return values.movedim(1, 0).reshape(classes, -1), labels.reshape(-1), counted.reshape(-1)


def checked_labels(labels: Tensor, num_classes: int, ignore_index: int | None) -> Tensor:
    """Labels (*S) as a plain contiguous tensor on the CPU. Raises ValueError for values out of 0..num_classes-1."""
    check_tensor("labels", labels)
    check_option("ignore_index", ignore_index, int | None)
    labels = labels.detach().cpu().as_subclass(torch.Tensor).contiguous()
    check_label_type(labels)
    if not labels.numel():
        raise ValueError(f"labels hold no voxel, their shape is {tuple(labels.shape)}")
    # picking the valid ones out would take 24 bytes a voxel for their places
    seen = labels if ignore_index is None else labels.where(not_ignored(labels, ignore_index), labels.new_zeros(()))
    _check_range(seen, num_classes, ignore_index)
    return labels


def checked_masks(masks: Mapping[str, Tensor], shape: Sequence[int], taken: Iterable[str]) -> dict[str, Tensor]:
    """The user's masks as (*S) bool tensors. Raises ValueError for names in use, other shapes, and values but 0, 1."""
    if not isinstance(masks, Mapping):
        raise ValueError(f'masks must map names to tensors, such as {{"lesion": mask}}, got a {type(masks).__name__}')
    found = {}
    for name, mask in masks.items():
        if name in taken or "/" in name or not name:
            raise ValueError(f"a mask cannot be called {name!r}: it is a region's name, empty, or holds a /")
        found[name] = _checked_mask(f"mask {name!r}", mask, shape)
    return found


def _checked_mask(name: str, mask: Tensor, shape: Sequence[int]) -> Tensor:
    """As bool, on the CPU."""
    check_tensor(name, mask)
    mask = mask.detach().cpu().as_subclass(torch.Tensor)
    if mask.shape != tuple(shape):
        raise ValueError(f"{name} has shape {tuple(mask.shape)}, expected that of the labels, {tuple(shape)}")
    if mask.dtype != torch.bool and not bool(((mask == 0) | (mask == 1)).all()):
        raise ValueError(f"{name} must hold only 0 and 1; give {name.split()[0]} != 0 if other values are inside, too")
    return mask.bool()


def _check_range(seen: Tensor, classes: int, ignore_index: int | None) -> None:
    if seen.numel() and (int(seen.min()) < 0 or int(seen.max()) >= classes):
        raise label_range_error(int(seen.min()), int(seen.max()), classes, ignore_index)
