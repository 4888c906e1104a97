"""Focal losses: plain, with the sample-dependent exponent of FLSD-53, and dual."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import log_softmax

from medcalib.losses.reduction import true_class, valid_mean
from medcalib.losses.term import Term


def focal_loss(logits: Tensor, labels: Tensor, valid: Tensor, *, gamma: float) -> Tensor:
    """mean over voxels of -(1 - p_t)^gamma log p_t; gamma = 0 is cross-entropy.

    Shapes: logits (B, C, *S), labels (B, *S), valid (B, *S) bool.
    """
    log_true, others = true_and_others(logits, labels)
    return valid_mean(-power(others.sum(1), gamma) * log_true, valid)


def flsd53_loss(logits: Tensor, labels: Tensor, valid: Tensor, *, gamma: float) -> Tensor:
    """mean over voxels of -(1 - p_t)^g log p_t, with g = 5 where p_t < 0.2, 3 where 0.2 <= p_t < 0.5, else gamma.

    Shapes: logits (B, C, *S), labels (B, *S), valid (B, *S) bool. The exponent is a constant for the gradient;
    the loss jumps where it changes.
    """
    log_true, others = true_and_others(logits, labels)
    true = log_true.detach().exp()
    gammas = torch.full_like(true, gamma).masked_fill(true < 0.5, 3.0).masked_fill(true < 0.2, 5.0)
    return valid_mean(-power(others.sum(1), gammas) * log_true, valid)


def dual_focal_loss(logits: Tensor, labels: Tensor, valid: Tensor, *, gamma: float) -> Tensor:
    """mean over voxels of -(1 - p_t + p_j)^gamma log p_t, p_j the largest probability below p_t (0 if none is).

    Shapes: logits (B, C, *S), labels (B, *S), valid (B, *S) bool. p_j has a gradient too. Where the true class
    has the smallest probability this is the focal loss.
    """
    log_true, others = true_and_others(logits, labels)
    below = others < log_true.exp().unsqueeze(1)
    runner_up = others.where(below, 0.0).amax(1)
    return valid_mean(-power(others.sum(1) + runner_up, gamma) * log_true, valid)


def true_and_others(logits: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """log p_t (B, *S), and the probabilities (B, C, *S) with 0 in place of p_t.

    1 - p_t is the sum of the latter: so its power keeps a finite gradient where p_t rounds to 1.
    """
    log_probs = log_softmax(logits, 1)
    return true_class(log_probs, labels), log_probs.exp().scatter(1, labels.unsqueeze(1), 0.0)


def power(base: Tensor, gamma: float | Tensor) -> Tensor:
    """base ** gamma, elementwise, for base >= 0 and gamma a number or a tensor; its gradient at base 0 is finite."""
    return base.clamp_min(torch.finfo(base.dtype).tiny).pow(gamma)  # 0 ** gamma has no gradient for gamma < 1


class FocalLoss(Term):
    """Focal loss without class weights; takes the place of cross-entropy.

    References: T.-Y. Lin et al., Focal Loss for Dense Object Detection, ICCV 2017, eq. 4; J. Mukhoti et al.,
    Calibrating Deep Neural Networks using Focal Loss, NeurIPS 2020. The official codes sum over voxels by
    default and set gamma to 3 in their medical configs; here it is the mean.
    """

    likelihood = True

    def __init__(self, *, gamma: float = 3.0) -> None:
        super().__init__()
        _check_gamma(gamma)
        self.gamma = gamma

    def forward(self, logits: Tensor, labels: Tensor, valid: Tensor) -> Tensor:
        """See `focal_loss`."""
        return focal_loss(logits, labels, valid, gamma=self.gamma)


class FLSD53Loss(Term):
    """Focal loss with a larger exponent for improbable true classes; takes the place of cross-entropy.

    Reference: J. Mukhoti et al., Calibrating Deep Neural Networks using Focal Loss, NeurIPS 2020 (arXiv
    2002.09437), the sample-dependent schedule FLSD-53. The official code sums over samples by default; here it
    is the mean. `gamma` is the exponent from p_t = 0.5 on, the other two are fixed by the name.
    """

    likelihood = True

    def __init__(self, *, gamma: float = 3.0) -> None:
        super().__init__()
        _check_gamma(gamma)
        self.gamma = gamma

    def forward(self, logits: Tensor, labels: Tensor, valid: Tensor) -> Tensor:
        """See `flsd53_loss`."""
        return flsd53_loss(logits, labels, valid, gamma=self.gamma)


class DualFocalLoss(Term):
    """Focal loss that also looks at the class ranked next below the true one; takes the place of cross-entropy.

    Reference: L. Tao et al., Dual Focal Loss for Calibration, ICML 2023. Its code takes gamma from a config
    for each data set and sums over samples by default; here it is the mean.
    """

    likelihood = True

    def __init__(self, *, gamma: float = 2.0) -> None:
        super().__init__()
        _check_gamma(gamma)
        self.gamma = gamma

    def forward(self, logits: Tensor, labels: Tensor, valid: Tensor) -> Tensor:
        """See `dual_focal_loss`."""
        return dual_focal_loss(logits, labels, valid, gamma=self.gamma)


def _check_gamma(gamma: float) -> None:
    if gamma < 0:
        raise ValueError(f"gamma must not be negative, got {gamma}")
