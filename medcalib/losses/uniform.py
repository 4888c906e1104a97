"""The distance of the softmax from equal probabilities."""

from __future__ import annotations

import torch
from torch import Tensor

from medcalib.losses.reduction import valid_mean
from medcalib.losses.term import Term


def uniform_distance(logits: Tensor, labels: Tensor, valid: Tensor) -> Tensor:
    """mean over voxels of sum_k |p_k - 1/C|, p = softmax(logits).

    Shapes: logits (B, C, *S), labels (B, *S) (not used), valid (B, *S) bool. Returns a scalar in [0, 2 - 2/C].
    """
    del labels
    return valid_mean((torch.softmax(logits, 1) - 1 / logits.shape[1]).abs().sum(1), valid)


class UniformPenalty(Term):
    """Pulls every prediction to equal probabilities.

    Source: a baseline in the code of MbLS (B. Liu et al., The Devil is in the Margin, CVPR 2022). That code
    divides by the number of images only, which for images is a sum over voxels; here it is the mean.
    """

    def forward(self, logits: Tensor, labels: Tensor, valid: Tensor) -> Tensor:
        """See `uniform_distance`."""
        return uniform_distance(logits, labels, valid)
