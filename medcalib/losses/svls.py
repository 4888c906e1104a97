"""Spatially varying label smoothing."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn.functional import log_softmax

from medcalib.losses.reduction import valid_mean
from medcalib.losses.term import FusedPart, Term
from medcalib.ops import neighborhood_proportions
from medcalib.ops.neighborhood import Padding, check_window


def svls_loss(
    logits: Tensor,
    labels: Tensor,
    valid: Tensor,
    *,
    kernel_size: int | Sequence[int],
    sigma: float,
    padding: Padding,
) -> Tensor:
    """mean over voxels of -sum_k s_k log p_k, with s the labels blurred by the SVLS kernel.

    Shapes: logits (B, C, *S), labels (B, *S), valid (B, *S) bool. s = `neighborhood_proportions(kernel="svls")`:
    1/2 for the voxel itself, the other half shared among its neighbors by a Gaussian of `sigma` voxels.
    Where all labels of the window agree, s is one-hot and the loss is cross-entropy.
    """
    targets = neighborhood_proportions(
        labels.where(valid, -1), logits.shape[1], kernel_size, "svls", padding, -1, sigma=sigma, dtype=logits.dtype
    )
    summands = targets * log_softmax(logits, 1)
    return valid_mean(-torch.where(targets > 0, summands, 0.0).sum(1), valid)  # a class masked by -inf: 0 * inf


class SVLSLoss(Term):
    """Cross-entropy against labels that are smoothed near boundaries; takes the place of cross-entropy.

    `sigma`: of the Gaussian, in voxels, 0.1 to 100.

    Reference: M. Islam and B. Glocker, Spatially Varying Label Smoothing, IPMI 2021 (arXiv 2104.05788),
    section 2. The official 2D code always uses a window of 3 and, for larger ones, reads the center from a
    wrong place; here `kernel_size` is what it says and the center has weight 1/2.
    """

    likelihood = True

    def __init__(
        self, *, kernel_size: int | Sequence[int] = 3, sigma: float = 1.0, padding: Padding = "replicate"
    ) -> None:
        super().__init__()
        check_window(kernel_size, sigma)
        self.kernel_size, self.sigma, self.padding = kernel_size, sigma, padding

    def fused(self, num_classes: int, device: torch.device) -> FusedPart:
        """The shares of the window as target."""
        del num_classes, device
        window = {"window": "svls", "padding": self.padding, "sigma": self.sigma}
        return FusedPart({"target": "window", "kernel_size": self.kernel_size, **window})

    def forward(self, logits: Tensor, labels: Tensor, valid: Tensor) -> Tensor:
        """See `svls_loss`."""
        return svls_loss(logits, labels, valid, kernel_size=self.kernel_size, sigma=self.sigma, padding=self.padding)
