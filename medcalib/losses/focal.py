"""Focal loss."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import log_softmax

from medcalib.losses.reduction import true_class, valid_mean
from medcalib.losses.term import Term


def focal_loss(logits: Tensor, labels: Tensor, valid: Tensor, *, gamma: float) -> Tensor:
    """mean over voxels of -(1 - p_t)^gamma log p_t; gamma = 0 is cross-entropy.

    Shapes: logits (B, C, *S), labels (B, *S), valid (B, *S) bool. 1 - p_t is computed as the sum of the other
    probabilities, so that its power keeps a finite gradient where p_t rounds to 1.
    """
    log_probs = log_softmax(logits, 1)
    log_true = true_class(log_probs, labels)
    others = log_probs.exp().scatter(1, labels.unsqueeze(1), 0.0).sum(1)
    others = others.clamp_min(torch.finfo(others.dtype).tiny)  # 0 ** gamma has no gradient for gamma < 1
    return valid_mean(-others.pow(gamma) * log_true, valid)


class FocalLoss(Term):
    """Focal loss without class weights; takes the place of cross-entropy.

    References: T.-Y. Lin et al., Focal Loss for Dense Object Detection, ICCV 2017, eq. 4; J. Mukhoti et al.,
    Calibrating Deep Neural Networks using Focal Loss, NeurIPS 2020. The official codes sum over voxels by
    default and set gamma to 3 in their medical configs; here it is the mean.
    """

    likelihood = True

    def __init__(self, *, gamma: float = 3.0) -> None:
        super().__init__()
        if gamma < 0:
            raise ValueError(f"gamma must not be negative, got {gamma}")
        self.gamma = gamma

    def forward(self, logits: Tensor, labels: Tensor, valid: Tensor) -> Tensor:
        """See `focal_loss`."""
        return focal_loss(logits, labels, valid, gamma=self.gamma)
