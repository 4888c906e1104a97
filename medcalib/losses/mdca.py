"""The difference of mean probability and frequency of each class: MDCA."""

from __future__ import annotations

import torch
from torch import Tensor

from medcalib.losses.brier import probability_errors
from medcalib.losses.reduction import valid_mean
from medcalib.losses.term import Term


def class_calibration(logits: Tensor, labels: Tensor, valid: Tensor, *, per_image: bool) -> Tensor:
    """mean over classes of |mean_i p_ik - mean_i q_ik|, p = softmax(logits), q = one-hot labels.

    Shapes: logits (B, C, *S), labels (B, *S), valid (B, *S) bool. The means run over the valid voxels of the
    whole batch or, with `per_image`, of one image; then the value is the mean over images that have any.
    """
    errors = probability_errors(logits, labels)
    kept = torch.where(valid.unsqueeze(1), errors, errors.new_zeros(()))
    sums, counts = kept.flatten(2).sum(2), valid.flatten(1).sum(1)
    if not per_image:
        sums, counts = sums.sum(0, keepdim=True), counts.sum(0, keepdim=True)
    gaps = (sums / counts.clamp_min(1).unsqueeze(1)).abs().mean(1)
    return valid_mean(gaps, counts > 0)


class MDCAPenalty(Term):
    """Compares, for every class alike, its mean probability with its frequency.

    Reference: R. Hebbalaguppe et al., A Stitch in Time Saves Nine, CVPR 2022 (arXiv 2203.13834). The official
    code knows samples, not images; its batch is here the voxels of all images together. Overconfidence in one image can
    make up for underconfidence in another; with `per_image` only within an image.
    """

    def __init__(self, *, per_image: bool = False) -> None:
        super().__init__()
        self.per_image = per_image

    def forward(self, logits: Tensor, labels: Tensor, valid: Tensor) -> Tensor:
        """See `class_calibration`."""
        return class_calibration(logits, labels, valid, per_image=self.per_image)
