"""Means over the voxels that count."""

from __future__ import annotations

import torch
from torch import Tensor


def valid_mean(values: Tensor, valid: Tensor) -> Tensor:
    """Mean of `values (B, *S)` over `valid (B, *S)`; 0, with a gradient of 0, when no voxel is valid.

    `where` rather than a product: an infinite value at an ignored voxel must not turn the sum into NaN.
    """
    kept = torch.where(valid, values, values.new_zeros(()))
    return kept.sum() / valid.sum().clamp_min(1)


def true_class(values: Tensor, labels: Tensor) -> Tensor:
    """`values (B, C, *S)` at the class of each voxel, `(B, *S)`."""
    return values.gather(1, labels.unsqueeze(1)).squeeze(1)


def valid_sum(values: Tensor, valid: Tensor) -> Tensor:
    """Sum of `values (B, K, *S)` over `valid (B, *S)` or `(B, 1, *S)`, in float64: `(K,)`."""
    valid = valid if valid.ndim == values.ndim else valid.unsqueeze(1)
    kept = torch.where(valid, values, values.new_zeros(()))
    return kept.sum(dim=(0, *range(2, values.ndim)), dtype=torch.float64)


def per_channel(numbers: Tensor, values: Tensor) -> Tensor:
    """`numbers (K,)` in the type of `values (B, K, *S)` and shaped to be combined with it."""
    return numbers.to(values.dtype).reshape(1, -1, *[1] * (values.ndim - 2))
