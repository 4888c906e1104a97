"""The neighbor-aware penalty of NACL."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor

from medcalib.losses.reduction import valid_mean
from medcalib.losses.term import FusedPart, Term
from medcalib.ops import image_weighted_proportions, neighborhood_proportions
from medcalib.ops.fused import constant_multipliers
from medcalib.ops.neighborhood import Padding, check_window

Kernel = Literal["mean", "svls", "bilateral", "gradient", "image_proportions_l1", "image_proportions_l2"]


def neighbor_targets(
    logits: Tensor,
    labels: Tensor,
    valid: Tensor,
    images: Tensor | None = None,
    *,
    kernel: Kernel,
    kernel_size: int | Sequence[int],
    padding: Padding,
    sigma: float,
) -> Tensor:
    """What the logits of each voxel are pulled to: class proportions (B, C, *S) of its window, by `kernel`.

    `kernel`: "mean" or "svls" of `neighborhood_proportions`, or one of `image_weighted_proportions`, which reads images
    (B, M, *S); `sigma` of its Gaussian, in voxels. Where `valid` (B, *S) is false a label enters no window. Raises
    ValueError where images are needed and missing.
    """
    classes, coded = logits.shape[1], labels.where(valid, -1)
    if kernel == "mean" or kernel == "svls":
        return neighborhood_proportions(
            coded, classes, kernel_size, kernel, padding, -1, sigma=sigma, dtype=logits.dtype
        )
    if images is None:
        raise ValueError(f"kernel {kernel!r} weighs neighbors by intensity: pass images (B, M, *S)")
    images = images.to(logits.dtype)
    return image_weighted_proportions(coded, images, classes, kernel_size, kernel, padding, -1, sigma=sigma)


def neighbor_penalty(
    logits: Tensor, targets: Tensor, valid: Tensor, *, distance: Literal["l1", "l2"], softmax: bool
) -> Tensor:
    """mean over voxels and classes of |t_k - u_k| (`distance` "l1") or (t_k - u_k)^2 ("l2").

    Shapes: logits (B, C, *S), targets t (B, C, *S), valid (B, *S) bool. u is the logits themselves, or their softmax.
    """
    difference = targets - (torch.softmax(logits, 1) if softmax else logits)
    return valid_mean((difference.abs() if distance == "l1" else difference.square()).mean(1), valid)


class NeighborPenalty(Term):
    """Pulls logits to the class proportions of the neighborhood.

    `kernel` and `sigma`: see `neighbor_targets`; `distance` and `softmax`: see `neighbor_penalty`.

    References: B. Murugesan et al., Trust your neighbours, MICCAI 2023 (arXiv 2303.06268), eq. 4; Neighbor-aware
    calibration, arXiv 2401.14487. As in the official code, u is the raw logits by default, though proportions lie in
    [0, 1], and outside the array counts as background; `padding="zeros"` gives the values of MONAI's NACLLoss.
    The kernels by image intensity (`image_weighted_proportions`) need images. The official kernels max, min, median
    and mode are order statistics of class numbers, which mean nothing, and are left out.
    """

    def __init__(
        self,
        *,
        kernel: Kernel = "mean",
        kernel_size: int | Sequence[int] = 3,
        distance: Literal["l1", "l2"] = "l1",
        softmax: bool = False,
        padding: Padding = "background",
        sigma: float = 1.0,
    ) -> None:
        super().__init__()
        check_window(kernel_size, sigma)
        self.kernel, self.kernel_size, self.padding, self.sigma = kernel, kernel_size, padding, sigma
        self.distance, self.softmax = distance, softmax
        self.uses_images = kernel not in ("mean", "svls")

    def fused(self, num_classes: int, device: torch.device) -> FusedPart | None:
        """|t - z| and its square are the phr penalty with (lam, rho) = (1, 0) and (0, 2)."""
        if self.softmax or self.uses_images:
            return None
        options = {"window": self.kernel, "kernel_size": self.kernel_size, "padding": self.padding, "sigma": self.sigma}
        pair = (1.0, 0.0) if self.distance == "l1" else (0.0, 2.0)
        return FusedPart({"penalty": "neighbor", **options}, constant_multipliers(*pair, num_classes, device))

    def forward(self, logits: Tensor, labels: Tensor, valid: Tensor, images: Tensor | None = None) -> Tensor:
        """See `neighbor_penalty`."""
        targets = neighbor_targets(
            logits,
            labels,
            valid,
            images,
            kernel=self.kernel,
            kernel_size=self.kernel_size,
            padding=self.padding,
            sigma=self.sigma,
        )
        return neighbor_penalty(logits, targets, valid, distance=self.distance, softmax=self.softmax)
