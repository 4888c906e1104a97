"""Soft Dice loss."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import one_hot

from medcalib.losses.term import Term


def dice_loss(
    logits: Tensor,
    labels: Tensor,
    valid: Tensor,
    *,
    include_background: bool,
    squared: bool,
    smooth_nr: float,
    smooth_dr: float,
) -> Tensor:
    """mean over images b and classes k of 1 - (2 sum_s p q + smooth_nr) / (sum_s p^a + sum_s q + smooth_dr).

    p = softmax(logits), q = one-hot labels, sums over the valid voxels s of an image; a = 2 if `squared` else 1.
    Shapes: logits (B, C, *S), labels (B, *S), valid (B, *S) bool. Returns a scalar in [0, 1]. An absent class
    costs nearly 1, as in the published baselines. Without `include_background` class 0 is left out of the mean.
    """
    probs = torch.softmax(logits, 1) * valid.unsqueeze(1)
    target = one_hot(labels, logits.shape[1]).movedim(-1, 1).to(probs.dtype) * valid.unsqueeze(1)
    axes = tuple(range(2, logits.ndim))
    overlap = (probs * target).sum(axes)
    size = (probs.square() if squared else probs).sum(axes) + target.sum(axes)
    loss = 1 - (2 * overlap + smooth_nr) / (size + smooth_dr)
    return loss[:, 0 if include_background else 1 :].mean()


class DiceLoss(Term):
    """Soft Dice loss over the softmax. Defaults are those of the CE+Dice baseline of the margin papers.

    Parameters as `dice_loss`: `smooth_nr` and `smooth_dr` keep the ratio finite, `include_background` counts class 0.

    Reference: F. Milletari et al., V-Net, 3DV 2016, section 3. `squared=True, smooth_nr=0` is the baseline of
    the average-calibration papers (arXiv 2403.06759).
    """

    def __init__(
        self,
        *,
        include_background: bool = True,
        squared: bool = False,
        smooth_nr: float = 1e-5,
        smooth_dr: float = 1e-5,
    ) -> None:
        super().__init__()
        if smooth_nr < 0 or smooth_dr <= 0:
            name, value = ("smooth_nr", smooth_nr) if smooth_nr < 0 else ("smooth_dr", smooth_dr)
            raise ValueError(f"{name} must be positive (smooth_nr may be 0), got {value}")
        self.include_background, self.squared = include_background, squared
        self.smooth_nr, self.smooth_dr = smooth_nr, smooth_dr

    def forward(self, logits: Tensor, labels: Tensor, valid: Tensor) -> Tensor:
        """See `dice_loss`."""
        return dice_loss(
            logits,
            labels,
            valid,
            include_background=self.include_background,
            squared=self.squared,
            smooth_nr=self.smooth_nr,
            smooth_dr=self.smooth_dr,
        )
