"""The definitions in plain torch: the oracle of every faster kernel, and what runs where none is built."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import reduce
from itertools import product

import torch
from torch import Tensor
from torch.nn.functional import conv2d, conv3d, pad

Size = tuple[int, ...]


def neighborhood_proportions(
    labels: Tensor,
    valid: Tensor,
    num_classes: int,
    size: Size,
    kernel: str,
    padding: str,
    sigma: float,
    dtype: torch.dtype = torch.float32,
) -> Tensor:
    """See `medcalib.ops.neighborhood_proportions`; arguments are checked there. Labels count where `valid`."""
    shape = (labels.shape[0], num_classes, *labels.shape[1:])
    classes = torch.zeros(shape, dtype=dtype, device=labels.device)
    classes.scatter_(1, labels.where(valid, 0).unsqueeze(1), valid.unsqueeze(1).to(dtype))
    classes, counted = padded(classes, size, padding), valid.unsqueeze(1).to(dtype)
    counted = padded(counted, size, "replicate" if padding == "replicate" else "zeros", outside=1.0)
    if padding == "background":
        classes[:, 0] += pad(torch.zeros_like(labels, dtype=dtype), around(size), value=1.0)
    if kernel == "svls":
        weights = svls_kernel(size, sigma).to(labels.device, dtype)
        shares, total = window_sum(classes, weights), window_sum(counted, weights)
    else:
        shares, total = box(classes, size, torch.add), box(counted, size, torch.add)
    return torch.where(total > 0, shares / total, 0.0)


def heterogeneous(labels: Tensor, valid: Tensor, size: Size, padding: str) -> Tensor:
    """See `medcalib.ops.heterogeneous`; arguments are checked there. Integers only, so the test is exact."""
    far = torch.iinfo(torch.int32).max
    labels = labels.to(torch.int32).unsqueeze(1)
    inside = valid.unsqueeze(1)
    low = padded(labels.where(inside, far), size, padding, outside=far)
    high = padded(labels.where(inside, -1), size, padding, outside=-1)
    return (box(low, size, torch.minimum) < box(high, size, torch.maximum)).squeeze(1)


def heterogeneous_by_rounding(labels: Tensor, valid: Tensor, size: Size, padding: str, dtype: torch.dtype) -> Tensor:
    """See `medcalib.ops.heterogeneous`: sum_j (mean - y_j) != 0 in floating point, one voxel after the other."""
    coded = padded(labels.where(valid, 0).unsqueeze(1).to(dtype), size, padding)
    outside = 0.0 if padding == "zeros" else 1.0
    counted = padded(valid.unsqueeze(1).to(dtype), size, "replicate" if padding == "replicate" else "zeros", outside)
    total, members = reduce(torch.add, windows(coded, size)), reduce(torch.add, windows(counted, size))
    mean = total / members.clamp_min(1)
    pairs = zip(windows(coded, size), windows(counted, size), strict=True)
    return (reduce(torch.add, ((mean - code) * count for code, count in pairs)) != 0).squeeze(1)


def window_mean(values: Tensor, valid: Tensor, size: Size) -> Tensor:
    """See `medcalib.ops.window_mean`; arguments are checked there."""
    kept = torch.where(valid.unsqueeze(1), values, values.new_zeros(()))
    total = box(pad(kept, around(size)), size, torch.add)
    return total / box(pad(valid.unsqueeze(1).to(values.dtype), around(size)), size, torch.add)


def around(size: Size) -> list[int]:
    """The half window on both sides of each axis, as `torch.nn.functional.pad` wants it."""
    return [n // 2 for n in reversed(size) for _ in (0, 1)]


def padded(values: Tensor, size: Size, padding: str, outside: float = 0.0) -> Tensor:
    """`values (B, K, *S)` with half a window around: the edge repeated, 0 ("background") or `outside` ("zeros")."""
    if padding == "replicate":
        # torch replicates floating-point numbers only; double holds every int32
        wide = values if values.is_floating_point() else values.double()
        return pad(wide, around(size), mode="replicate").to(values.dtype)
    return pad(values, around(size), value=outside if padding == "zeros" else 0)


def box(values: Tensor, size: Size, combine: Callable[[Tensor, Tensor], Tensor]) -> Tensor:
    """`values (B, K, *S)`, padded, combined over every full window, one axis after the other."""
    for axis, n in enumerate(size, start=2):
        length = values.shape[axis] - n + 1
        values = reduce(combine, (values.narrow(axis, start, length) for start in range(n)))
    return values


def windows(values: Tensor, size: Size) -> Iterator[Tensor]:
    """`values (B, K, *S)`, padded, as seen at each place of the window in turn, in raster order."""
    shape = [s - n + 1 for s, n in zip(values.shape[2:], size, strict=True)]
    for starts in product(*(range(n) for n in size)):
        view = values
        for axis, (start, length) in enumerate(zip(starts, shape, strict=True), start=2):
            view = view.narrow(axis, start, length)
        yield view


def window_sum(values: Tensor, weights: Tensor) -> Tensor:
    """sum_j w_j x_j in every full window of `values (B, K, *S)`, padded, channel by channel."""
    convolve = conv3d if weights.ndim == 3 else conv2d
    summed: Tensor = convolve(values.flatten(0, 1).unsqueeze(1), weights[None, None])
    return summed.reshape(*values.shape[:2], *summed.shape[2:])


def gaussian(size: Size, sigma: float) -> Tensor:
    """The Gaussian of `sigma` voxels on the window, in double, summing to 1."""
    grids = torch.meshgrid(*(torch.arange(n, dtype=torch.float64) - n // 2 for n in size), indexing="ij")
    gauss = torch.exp(-torch.stack([g.square() for g in grids]).sum(0) / (2 * sigma**2))
    return gauss / gauss.sum()


def svls_kernel(size: Size, sigma: float) -> Tensor:
    """Center 1/2, neighbors G_j / (2 (1 - G_c)) with G the normalized Gaussian; 1 for a window of one voxel."""
    weights, center = gaussian(size, sigma), tuple(n // 2 for n in size)
    if weights.numel() == 1:
        return weights
    weights[center] = 0.0
    weights /= 2 * weights.sum()
    weights[center] = 0.5
    return weights
