"""The confidence penalty: negative entropy of the softmax."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from medcalib.losses.reduction import valid_mean
from medcalib.losses.term import Term

ClassReduction = Literal["mean", "sum"]
TINY = 1e-10  # of the official code; the gradient of p log p is cut where p is nearer than this to 0 or 1


def negative_entropy(logits: Tensor, labels: Tensor, valid: Tensor, *, class_reduction: ClassReduction) -> Tensor:
    """mean over voxels of the mean or sum over classes of p_k log p_k, p = softmax(logits).

    Shapes: logits (B, C, *S), labels (B, *S) (not used), valid (B, *S) bool. Returns a scalar <= 0: with "sum"
    it is minus the entropy H in nats, at least -log C; with "mean" it is -H / C. `class_reduction` chooses.
    """
    del labels
    probs = torch.softmax(logits, 1).clamp(TINY, 1 - TINY)
    summands = probs * probs.log()
    return valid_mean(summands.mean(1) if class_reduction == "mean" else summands.sum(1), valid)


class EntropyPenalty(Term):
    """Rewards a high entropy of the prediction: a positive weight lowers confidence everywhere.

    Reference: G. Pereyra et al., Regularizing Neural Networks by Penalizing Confident Output Distributions,
    2017 (arXiv 1701.06548). As in the code of MbLS, CALS and MarginLoss, which published with it, the entropy
    is averaged over classes, so that a weight is worth less the more classes there are; `class_reduction="sum"`
    is the entropy itself.
    """

    def __init__(self, *, class_reduction: ClassReduction = "mean") -> None:
        super().__init__()
        self.class_reduction = class_reduction

    def forward(self, logits: Tensor, labels: Tensor, valid: Tensor) -> Tensor:
        """See `negative_entropy`."""
        return negative_entropy(logits, labels, valid, class_reduction=self.class_reduction)
