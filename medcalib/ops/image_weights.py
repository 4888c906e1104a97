"""Class proportions in a window whose voxels are weighted by image intensity."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, get_args

import torch
from torch import Tensor

from medcalib.ops.inputs import check_tensor
from medcalib.ops.neighborhood import Padding, check_range, checked_labels
from medcalib.ops.reference import gaussian, padded, windows

ImageKernel = Literal["bilateral", "gradient", "image_proportions_l1", "image_proportions_l2"]


def image_weighted_proportions(
    labels: Tensor,
    images: Tensor,
    num_classes: int,
    kernel_size: int | Sequence[int] = 3,
    kernel: ImageKernel = "image_proportions_l1",
    padding: Padding = "background",
    ignore_index: int | None = None,
    *,
    sigma: float = 1.0,
) -> Tensor:
    """sum_j w_j [y_j = k] over the window around each voxel, weighted by d_j = |I_j - I_center|.

    Shapes: labels (B, *S) integers, images (B, M, *S) with M channels (d_j is their mean; the official code knows one)
    -> (B, C, *S) in the dtype of the images.

    kernel: "image_proportions_l1" and "_l2" are shares, w = softmax_j(-d_j) and softmax_j(-d_j^2). "gradient" is
    w = d_j / K and "bilateral" d_j G_j / K with the normalized Gaussian G of `sigma` voxels and K the number of
    voxels in the window: not normalized, and zero for the center, as in the official code, so they sum to less
    than 1. padding: outside the array intensity is 0 and the label background ("background", official) or no
    class ("zeros"), or the edge is repeated ("replicate"). Ignored voxels leave the window. Raises ValueError for
    labels that are no integers or out of 0..C-1, and for options out of range.

    Source: the code of NACL (arXiv 2303.06268), kernel_ops of its spatially adaptive margin.
    """
    if kernel not in get_args(ImageKernel):
        raise ValueError(f"kernel must be one of {', '.join(map(repr, get_args(ImageKernel)))}, got {kernel!r}")
    check_tensor("labels", labels)
    check_tensor("images", images)
    if images.ndim != labels.ndim + 1 or images.shape[:1] + images.shape[2:] != labels.shape:
        raise ValueError(f"expected images (B, M, *S) beside labels {tuple(labels.shape)}, got {tuple(images.shape)}")
    images = images if images.is_floating_point() else images.float()
    labels, valid, size = checked_labels(labels, kernel_size, padding, ignore_index)
    check_range(labels, valid, num_classes, ignore_index)
    seen = padded(images, size, padding)
    codes = padded(labels.where(valid, 0).unsqueeze(1), size, padding)
    counted = padded(valid.unsqueeze(1).to(images.dtype), size, "replicate" if padding == "replicate" else "zeros", 1.0)
    present = padded(valid.unsqueeze(1).to(images.dtype), size, padding) if padding == "zeros" else counted
    near = gaussian(size, sigma) if kernel == "bilateral" else torch.ones(size)
    shares = images.new_zeros(labels.shape[0], num_classes, *labels.shape[1:])
    total = images.new_zeros(labels.shape).unsqueeze(1)
    views = (windows(t, size) for t in (seen, codes, counted, present))
    for weight_of_place, image, code, counts, holds in zip(near.flatten().tolist(), *views, strict=True):
        difference = (image - images).abs().mean(1, keepdim=True)
        if kernel in ("bilateral", "gradient"):
            weight, share = weight_of_place * difference, counts
        else:
            weight = torch.exp(-(difference.square() if kernel == "image_proportions_l2" else difference))
            share = weight * counts
        # `where`: the intensity of an ignored voxel may be anything
        total += torch.where(counts > 0, share, 0.0)
        shares.scatter_add_(1, code, torch.where(holds > 0, weight, 0.0))
    return torch.where(total > 0, shares / total, 0.0)
