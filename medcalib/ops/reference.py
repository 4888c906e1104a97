"""The definitions in plain torch: the oracle of every faster kernel, and what runs where none is built."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import conv2d, conv3d, one_hot, pad


def neighborhood_proportions(
    labels: Tensor,
    valid: Tensor,
    num_classes: int,
    size: tuple[int, ...],
    kernel: str,
    padding: str,
    sigma: float,
) -> Tensor:
    """See `medcalib.ops.neighborhood_proportions`; arguments are checked there."""
    weights = svls_kernel(size, sigma) if kernel == "svls" else torch.full(size, 1.0)
    weights = weights.to(labels.device)
    margin = [n // 2 for n in reversed(size) for _ in (0, 1)]
    classes = one_hot(labels.where(valid, 0), num_classes).movedim(-1, 1).float() * valid.unsqueeze(1)
    counted = valid.unsqueeze(1).float()
    if padding == "replicate":
        classes, counted = (pad(t, margin, mode="replicate") for t in (classes, counted))
    else:
        classes, counted = pad(classes, margin), pad(counted, margin, value=1.0)
        if padding == "background":
            outside = pad(torch.ones_like(labels, dtype=torch.float32), margin) == 0
            classes[:, 0] += outside
    total = window_sum(counted, weights)
    return torch.where(total > 0, window_sum(classes, weights) / total, 0.0)


def window_mean(values: Tensor, valid: Tensor, size: tuple[int, ...]) -> Tensor:
    """See `medcalib.ops.window_mean`; arguments are checked there. A box is summed one axis at a time."""
    total = torch.where(valid.unsqueeze(1), values, values.new_zeros(()))
    count = valid.unsqueeze(1).to(values.dtype)
    for axis, n in enumerate(size):
        line = [n if a == axis else 1 for a in range(len(size))]
        weights = torch.ones(line, dtype=values.dtype, device=values.device)
        margin = [k // 2 for k in reversed(line) for _ in (0, 1)]
        total, count = window_sum(pad(total, margin), weights), window_sum(pad(count, margin), weights)
    return total / count


def window_sum(padded: Tensor, weights: Tensor) -> Tensor:
    """sum_j w_j x_j in every full window of `padded (B, K, *S)`, channel by channel."""
    batch, channels = padded.shape[:2]
    convolve = conv3d if weights.ndim == 3 else conv2d
    flat = padded.flatten(0, 1).unsqueeze(1)
    return convolve(flat, weights.to(padded.dtype)[None, None]).reshape(batch, channels, *_shrunk(padded, weights))


def svls_kernel(size: tuple[int, ...], sigma: float) -> Tensor:
    """Center 1/2, neighbors G_j / (2 (1 - G_c)) with G the normalized Gaussian; 1 for a window of one voxel."""
    grids = torch.meshgrid(*(torch.arange(n, dtype=torch.float64) - n // 2 for n in size), indexing="ij")
    gauss = torch.exp(-torch.stack([g.square() for g in grids]).sum(0) / (2 * sigma**2))
    center = tuple(n // 2 for n in size)
    gauss[center] = 0.0
    weights = gauss / (2 * gauss.sum()) if gauss.numel() > 1 else gauss
    weights[center] = 0.5 if gauss.numel() > 1 else 1.0
    return weights.float()


def _shrunk(padded: Tensor, weights: Tensor) -> tuple[int, ...]:
    return tuple(n - k + 1 for n, k in zip(padded.shape[2:], weights.shape, strict=True))
