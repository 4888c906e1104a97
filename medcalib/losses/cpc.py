"""Pairwise constraints on logits: CPC."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid
from torch.utils.checkpoint import checkpoint

from medcalib.losses.reduction import true_class, valid_mean
from medcalib.losses.term import Term


def binary_discrimination(logits: Tensor, labels: Tensor, valid: Tensor) -> Tensor:
    """BDC: mean over voxels and the C - 1 classes k != t of softplus(z_k - z_t), t the true class.

    Shapes: logits z (B, C, *S), labels (B, *S), valid (B, *S) bool. With two classes it is cross-entropy.
    """
    # not softplus: torch takes it for linear beyond 20
    costs = -logsigmoid(true_class(logits, labels).unsqueeze(1) - logits)
    wrong = costs.scatter(1, labels.unsqueeze(1), 0.0)
    return valid_mean(wrong.sum(1) / (logits.shape[1] - 1), valid)


def binary_exclusion(logits: Tensor, labels: Tensor, valid: Tensor) -> Tensor:
    """BEC: mean over voxels of 1/((C-1)(C-2)) sum over j, k != t of softplus(z_k - z_j) / 2; 0 for two classes.

    Shapes: logits z (B, C, *S), labels (B, *S), valid (B, *S) bool, t the true class. The sum has all ordered
    pairs of wrong classes, j = k included, which add the constant log(2) / (2 (C-2)). Both orders of a pair
    together are log(2 cosh(d/2)), d = z_j - z_k: least at 0, it makes wrong classes equally probable. Backward
    computes the pairs of one class at a time anew, so that memory stays at a few times the logits.
    """
    classes = logits.shape[1]
    if classes == 2:
        return logits.new_zeros(())
    total = logits.new_full(labels.shape, (classes - 1) * math.log(2) / 2)
    for first in range(classes - 1):
        row = checkpoint(_pairs, logits, labels, first, use_reentrant=False, preserve_rng_state=False)
        total = total + row
    return valid_mean(total / ((classes - 1) * (classes - 2)), valid)


def _pairs(logits: Tensor, labels: Tensor, first: int) -> Tensor:
    """sum of log(2 cosh(d/2)) over the pairs of the class `first` with a later one, both wrong; (B, *S)."""
    distance = (logits[:, first : first + 1] - logits[:, first + 1 :]).abs()
    later = torch.arange(first + 1, logits.shape[1], device=labels.device).reshape(1, -1, *[1] * (labels.ndim - 1))
    wrong = (labels.unsqueeze(1) != first) & (labels.unsqueeze(1) != later)
    return (distance / 2 - logsigmoid(distance)).where(wrong, 0.0).sum(1)


class CPCPenalty(Term):
    """Pairs of the true class with each other one, told apart, and pairs of two wrong classes, kept equal.

    weight_bdc * BDC + weight_bec * BEC, see `binary_discrimination` and `binary_exclusion`.

    Reference: J. Cheng and N. Vasconcelos, Calibrating Deep Neural Networks by Pairwise Constraints, CVPR 2022.
    Source: the code of CALS, whose config has the weights 0.1 and 1. It shifts the distances of wrong classes by
    1e-10, which is left out, and divides by zero for two classes, where there are no such pairs.
    """

    def __init__(self, *, weight_bdc: float = 0.1, weight_bec: float = 1.0) -> None:
        super().__init__()
        for name, value in (("weight_bdc", weight_bdc), ("weight_bec", weight_bec)):
            if not 0 <= value < float("inf"):
                raise ValueError(f"{name} must be finite and not negative, got {value}")
        self.weight_bdc, self.weight_bec = weight_bdc, weight_bec

    def forward(self, logits: Tensor, labels: Tensor, valid: Tensor) -> Tensor:
        """The weighted sum of both constraints."""
        discrimination = binary_discrimination(logits, labels, valid)
        return self.weight_bdc * discrimination + self.weight_bec * binary_exclusion(logits, labels, valid)
