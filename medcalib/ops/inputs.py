"""What users hand over by mistake: arrays and lists in place of tensors, probabilities in place of logits."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

LABEL_TYPES = (torch.uint8, torch.int16, torch.int32, torch.int64)


def check_tensor(name: str, value: object) -> None:
    """Refuse what is no tensor, with the way to make one of it: ValueError."""
    if isinstance(value, Tensor):
        return
    came, fix = type(value).__name__, ""
    if isinstance(value, np.ndarray):
        came, fix = "a numpy array", f"; use torch.from_numpy({name})"
    elif isinstance(value, (list, tuple)):
        came, fix = f"a {came} of {len(value)}", "; hand over its entries one by one, or their torch.stack"
    raise ValueError(f"{name} must be a torch.Tensor, got {came}{fix}")


def check_label_type(labels: Tensor) -> None:
    """Refuse labels of a type that is not counted: ValueError."""
    if labels.dtype not in LABEL_TYPES:
        raise ValueError(f"labels must be uint8, int16, int32 or int64, got {labels.dtype}; use labels.long()")


def look_like_probabilities(logits: Tensor) -> bool:
    """Whether logits (B, C, *S) or (B, C) of several classes lie in [0, 1] and sum to 1 over C within 1e-3 everywhere.

    A softmax makes such values; a network that ends without one does not. False without any value.
    """
    if logits.ndim < 2 or logits.shape[1] < 2 or not logits.numel():
        return False
    low, high = logits.detach().aminmax()
    if low < 0 or high > 1:
        return False
    return bool(((logits.detach().sum(1, dtype=torch.float64) - 1).abs() < 1e-3).all())
