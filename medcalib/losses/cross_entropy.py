"""Cross-entropy and its smoothed form: the likelihoods."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor
from torch.nn.functional import log_softmax

from medcalib.losses.reduction import true_class, valid_mean
from medcalib.losses.term import FusedPart, Term


def cross_entropy(logits: Tensor, labels: Tensor, valid: Tensor) -> Tensor:
    """mean over voxels of -log p_t, p = softmax(logits), t the true class.

    Shapes: logits (B, C, *S), labels (B, *S) in 0..C-1, valid (B, *S) bool. Returns a scalar in nats, >= 0.
    """
    return valid_mean(-true_class(log_softmax(logits, 1), labels), valid)


def label_smoothing(logits: Tensor, labels: Tensor, valid: Tensor, *, smoothing: float, mode: str) -> Tensor:
    """Cross-entropy against smoothed targets, for smoothing a in [0, 1).

    uniform: (1-a)(-log p_t) + (a/C) sum_k(-log p_k), which is `torch.nn.CrossEntropyLoss(label_smoothing=a)`;
    others:  (1-a)(-log p_t) + (a/(C-1)) sum_{k != t}(-log p_k), the form of the MDCA, SDC and FCL codes. The form is
    `mode`. Returns a scalar >= 0.
    """
    negative = -log_softmax(logits, 1)
    own, total = true_class(negative, labels), negative.sum(1)
    classes = logits.shape[1]
    rest = total / classes if mode == "uniform" else (total - own) / (classes - 1)
    return valid_mean((1 - smoothing) * own + smoothing * rest, valid)


class CrossEntropy(Term):
    """-log p_t, averaged over voxels.

    Reference: I. J. Good, Rational Decisions, J. Royal Statistical Society B 1952 (the logarithmic score).
    """

    likelihood = True

    def fused(self, num_classes: int, device: torch.device) -> FusedPart:
        """A target of 1 at the label."""
        del num_classes, device
        return FusedPart({"target": "label"})

    def forward(self, logits: Tensor, labels: Tensor, valid: Tensor) -> Tensor:
        """See `cross_entropy`."""
        return cross_entropy(logits, labels, valid)


class LabelSmoothing(Term):
    """Cross-entropy with smoothed targets; takes the place of plain cross-entropy.

    `mode`: see `label_smoothing`.

    Reference: C. Szegedy et al., Rethinking the Inception Architecture, CVPR 2016, section 7. The medical
    comparisons (MarginLoss, SVLS) use smoothing 0.1.
    """

    likelihood = True

    def __init__(self, *, smoothing: float = 0.1, mode: Literal["uniform", "others"] = "uniform") -> None:
        super().__init__()
        if not 0 <= smoothing < 1:
            raise ValueError(f"smoothing must lie in [0, 1), got {smoothing}")
        self.smoothing, self.mode = smoothing, mode

    def fused(self, num_classes: int, device: torch.device) -> FusedPart:
        """A target of `own` at the label and `rest` at every other class."""
        del device
        rest = self.smoothing / (num_classes if self.mode == "uniform" else num_classes - 1)
        own = 1 - self.smoothing + (rest if self.mode == "uniform" else 0.0)
        return FusedPart({"target": "label", "own": own, "rest": rest})

    def forward(self, logits: Tensor, labels: Tensor, valid: Tensor) -> Tensor:
        """See `label_smoothing`."""
        return label_smoothing(logits, labels, valid, smoothing=self.smoothing, mode=self.mode)
