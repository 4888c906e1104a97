"""The difference of mean confidence and accuracy: DCA."""

from __future__ import annotations

import torch
from torch import Tensor

from medcalib.losses.reduction import valid_mean
from medcalib.losses.term import Term


def confidence_gap(logits: Tensor, labels: Tensor, valid: Tensor) -> Tensor:
    """|mean_i max_k p_ik - accuracy|, p = softmax(logits), means over all valid voxels of the batch.

    Shapes: logits (B, C, *S), labels (B, *S), valid (B, *S) bool. Returns a scalar in [0, 1]. The accuracy has
    no gradient.
    """
    confidence = torch.softmax(logits, 1).amax(1)
    correct = (logits.argmax(1) == labels).to(confidence.dtype)
    return valid_mean(confidence - correct, valid).abs()


class DCAPenalty(Term):
    """Compares the mean confidence of a batch with its accuracy.

    Reference: G. Liang et al., Improved Trainable Calibration Method for Neural Networks on Medical Imaging
    Classification, BMVC 2020 (arXiv 2009.04057).
    """

    def forward(self, logits: Tensor, labels: Tensor, valid: Tensor) -> Tensor:
        """See `confidence_gap`."""
        return confidence_gap(logits, labels, valid)
