"""The Brier score, plain and weighted by how improbable the true class is."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from medcalib.losses.reduction import true_class, valid_mean
from medcalib.losses.term import Term

ClassReduction = Literal["sum", "mean"]


def probability_errors(logits: Tensor, labels: Tensor) -> Tensor:
    """p - q of shape (B, C, *S), p = softmax(logits), q = one-hot labels.

    At the true class it is minus the sum of the other probabilities, which does not vanish where p_t rounds to 1.
    """
    index = labels.unsqueeze(1)
    others = torch.softmax(logits, 1).scatter(1, index, 0.0)
    return others.scatter(1, index, -others.sum(1, keepdim=True))


def brier_score(logits: Tensor, labels: Tensor, valid: Tensor, *, class_reduction: ClassReduction) -> Tensor:
    """mean over voxels of the sum or mean over classes of (p_k - q_k)^2, p = softmax(logits), q = one-hot labels.

    Shapes: logits (B, C, *S), labels (B, *S), valid (B, *S) bool. Returns a scalar: in [0, 2] with "sum", in
    [0, 2/C] with "mean". `class_reduction` chooses.
    """
    return valid_mean(_squared(probability_errors(logits, labels), class_reduction), valid)


def adaptive_brier_score(
    logits: Tensor, labels: Tensor, valid: Tensor, *, gamma_calibration: float, class_reduction: ClassReduction
) -> Tensor:
    """mean over voxels of (1 - p_t)^gamma_calibration times the Brier score of the voxel (see `brier_score`).

    Shapes: logits (B, C, *S), labels (B, *S), valid (B, *S) bool. The factor is a constant for the gradient.
    `class_reduction`: as there.
    """
    errors = probability_errors(logits, labels)
    factor = -true_class(errors, labels).detach()
    return valid_mean(factor.pow(gamma_calibration) * _squared(errors, class_reduction), valid)


def _squared(errors: Tensor, class_reduction: ClassReduction) -> Tensor:
    return errors.square().sum(1) if class_reduction == "sum" else errors.square().mean(1)


class BrierScore(Term):
    """The Brier score, a proper score by itself; beside the focal loss it is the calibration term of FCL.

    References: G. W. Brier, Verification of Forecasts Expressed in Terms of Probability, Monthly Weather Review
    1950; W. Liang et al., Calibrating Deep Neural Network using Euclidean Distance, 2024 (arXiv 2410.18321).
    The SDC code averages over classes: `class_reduction="mean"`.
    """

    def __init__(self, *, class_reduction: ClassReduction = "sum") -> None:
        super().__init__()
        self.class_reduction = class_reduction

    def forward(self, logits: Tensor, labels: Tensor, valid: Tensor) -> Tensor:
        """See `brier_score`."""
        return brier_score(logits, labels, valid, class_reduction=self.class_reduction)


class AdaptiveBrierScore(Term):
    """The Brier score with more weight on voxels whose true class is improbable: the calibration term of SA-FCL.

    Parameters as `adaptive_brier_score`: `gamma_calibration` >= 0 is the exponent of the factor, `class_reduction`
    "sum" or "mean".

    Reference: W. Liang et al., Calibrating Deep Neural Network using Euclidean Distance, 2024 (arXiv
    2410.18321). As in the official code the factor has no gradient.
    """

    def __init__(self, *, gamma_calibration: float = 2.0, class_reduction: ClassReduction = "sum") -> None:
        super().__init__()
        if gamma_calibration < 0:
            raise ValueError(f"gamma_calibration must not be negative, got {gamma_calibration}")
        self.gamma_calibration, self.class_reduction = gamma_calibration, class_reduction

    def forward(self, logits: Tensor, labels: Tensor, valid: Tensor) -> Tensor:
        """See `adaptive_brier_score`."""
        return adaptive_brier_score(
            logits, labels, valid, gamma_calibration=self.gamma_calibration, class_reduction=self.class_reduction
        )
