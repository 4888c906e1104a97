"""The public neighborhood operations: argument checks, then the reference implementation."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor

from medcalib.ops import reference

Kernel = Literal["mean", "svls"]
Padding = Literal["background", "replicate", "zeros"]


def neighborhood_proportions(
    labels: Tensor,
    num_classes: int,
    kernel_size: int | Sequence[int] = 3,
    kernel: Kernel = "mean",
    padding: Padding = "background",
    ignore_index: int | None = None,
    *,
    sigma: float = 1.0,
) -> Tensor:
    """Weighted share of each class in the window around each voxel, tau_k = sum_j w_j [y_j = k] / sum_j w_j.

    Shapes: labels (B, *S) integers with 2 or 3 spatial axes -> (B, C, *S) float32 in [0, 1], summing to 1.

    kernel: "mean" weighs all K = prod(kernel_size) voxels alike; "svls" gives the center 1/2 and neighbors
    G_j / (2 (1 - G_c)) with a Gaussian G of `sigma` voxels. padding: outside the array counts as class 0
    ("background", as in the official NACL and CRaC codes), repeats the edge ("replicate", SVLS), or counts as
    no class ("zeros", MONAI: then the sum is below 1 at borders). Ignored voxels leave the window and the
    shares are renormalized over the rest; a window without a valid voxel gives 0.

    References: B. Murugesan et al., NACL, arXiv 2303.06268, eq. 3; M. Islam and B. Glocker, SVLS,
    arXiv 2104.05788, section 2.
    """
    axes = labels.ndim - 1
    if axes not in (2, 3):
        raise ValueError(f"expected labels (B, H, W) or (B, D, H, W), got shape {tuple(labels.shape)}")
    if labels.is_floating_point():
        raise ValueError(f"labels must be integers, got {labels.dtype}")
    if kernel not in ("mean", "svls"):
        raise ValueError(f"kernel must be 'mean' or 'svls', got {kernel!r}")
    if padding not in ("background", "replicate", "zeros"):
        raise ValueError(f"padding must be 'background', 'replicate' or 'zeros', got {padding!r}")
    if sigma <= 0:
        raise ValueError(f"sigma must be positive, got {sigma}")
    labels = labels.as_subclass(torch.Tensor).long()
    valid = torch.ones_like(labels, dtype=torch.bool) if ignore_index is None else labels != ignore_index
    _check_labels(labels, valid, num_classes)
    size = odd_sizes(kernel_size, axes)
    return reference.neighborhood_proportions(labels, valid, num_classes, size, kernel, padding, sigma)


def window_mean(values: Tensor, kernel_size: int | Sequence[int], valid: Tensor | None = None) -> Tensor:
    """Mean of `values (B, K, *S)` over the valid voxels of the window around each voxel.

    `valid (B, *S)` bool; voxels outside the array are not valid. A window without a valid voxel gives NaN.
    """
    axes = values.ndim - 2
    if axes not in (2, 3):
        raise ValueError(f"expected values (B, K, H, W) or (B, K, D, H, W), got shape {tuple(values.shape)}")
    if valid is None:
        valid = torch.ones_like(values[:, 0], dtype=torch.bool)
    return reference.window_mean(values, valid, odd_sizes(kernel_size, axes))


def odd_sizes(kernel_size: int | Sequence[int], axes: int) -> tuple[int, ...]:
    """One odd window size per axis, in array order."""
    sizes = (kernel_size,) * axes if isinstance(kernel_size, int) else tuple(kernel_size)
    if len(sizes) != axes or any(n < 1 or n % 2 == 0 for n in sizes):
        raise ValueError(f"kernel_size must be odd, one number or {axes} of them, got {kernel_size}")
    return sizes


def _check_labels(labels: Tensor, valid: Tensor, num_classes: int) -> None:
    counted = labels[valid]
    if counted.numel() and (int(counted.min()) < 0 or int(counted.max()) >= num_classes):
        raise ValueError(
            f"labels must lie in 0..{num_classes - 1}, got {int(counted.min())}..{int(counted.max())}; "
            "pass ignore_index if a value marks ignored voxels"
        )
