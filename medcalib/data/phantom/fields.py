"""Smooth random fields with exact marginals, and labels drawn from a posterior with them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy import fft, special

Float = NDArray[np.float64]


def _periodic_kernel(voxels: int, sigma_voxels: float) -> Float:
    """Gaussian kernel folded onto a circle of `voxels` voxels, with l2 norm 1."""
    if sigma_voxels <= 0:
        raise ValueError(f"the kernel needs a positive width, got {sigma_voxels} voxels")
    turns = int(np.ceil(6 * sigma_voxels / voxels)) + 1
    offsets = np.arange(voxels)[:, None] + voxels * np.arange(-turns, turns + 1)[None, :]
    kernel: Float = np.exp(-0.5 * (offsets / sigma_voxels) ** 2).sum(axis=1)
    unit: Float = kernel / np.sqrt((kernel**2).sum())
    return unit


def gaussian_field(
    rng: np.random.Generator, shape: Sequence[int], spacing_mm: Sequence[float], length_mm: float
) -> Float:
    """Stationary Gaussian random field whose every voxel is exactly N(0, 1).

    White noise is convolved, periodically, with a separable Gaussian kernel `k` of standard deviation
    `length_mm`, and divided by `||k||_2`. A weighted sum of independent N(0, 1) values whose squared weights
    sum to 1 is N(0, 1), at the faces of the volume as well, since the boundary is periodic. Two voxels at a
    distance of `r` mm have the correlation `exp(-r^2 / (4 length_mm^2))`, up to the wrap-around, where voxels
    are not larger than `length_mm` (less on coarser grids; the marginals stay exact).

    Args:
        rng: source of the white noise.
        shape: grid size, one entry an axis.
        spacing_mm: voxel size, one entry an axis; the kernel is isotropic in mm, not in voxels.
        length_mm: standard deviation of the kernel.

    Returns:
        float64 array of size `shape`.
    """
    axes = tuple(range(len(shape)))
    spectrum = fft.rfftn(rng.standard_normal(tuple(shape)), axes=axes)
    for axis, (voxels, step) in enumerate(zip(shape, spacing_mm, strict=True)):
        kernel = _periodic_kernel(voxels, length_mm / step)
        transfer = fft.rfft(kernel) if axis == axes[-1] else fft.fft(kernel)
        # An even kernel has a real transfer function; what is imaginary is rounding.
        spectrum *= transfer.real.reshape([-1 if other == axis else 1 for other in axes])
    field: Float = fft.irfftn(spectrum, s=tuple(shape), axes=axes)
    return field


def gumbel_from_gaussian(z: Float) -> Float:
    """Map N(0, 1) to the standard Gumbel law: `G = -log(-log(Phi(z)))`, monotone in `z`, any shape.

    `log Phi` is evaluated as such: `Phi(z)` itself rounds to 1 for `z > 8.3`, which would make `G` infinite.
    """
    gumbel: Float = -np.log(-special.log_ndtr(z))
    return gumbel


def sample_labels(
    logits: Float, rng: np.random.Generator, spacing_mm: Sequence[float], length_mm: float
) -> NDArray[np.uint8]:
    """Draw one label map with voxelwise marginals softmax(logits) and smooth, drawn-looking outlines.

    `label(v) = argmax_k [logits_k(v) + G_k(v)]`, with Gumbel fields `G_k` that are independent between
    classes and smooth in space. By the Gumbel-max theorem `P(label(v) = k) = softmax(logits(v))_k` exactly;
    the smoothness of `G_k` only couples neighboring voxels.

    Args:
        logits: (C, *S), defined up to a constant a voxel.
        rng: source of the noise.
        spacing_mm: voxel size, one entry an axis.
        length_mm: kernel width of the noise, see `gaussian_field`.

    Returns:
        class indices (*S), uint8.
    """
    labels = np.zeros(logits.shape[1:], dtype=np.uint8)
    best = np.full(logits.shape[1:], -np.inf)
    for index, logit in enumerate(logits):
        score = logit + gumbel_from_gaussian(gaussian_field(rng, logit.shape, spacing_mm, length_mm))
        labels[score > best] = index
        np.maximum(best, score, out=best)
    return labels
