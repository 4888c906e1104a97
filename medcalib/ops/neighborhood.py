"""The public neighborhood operations: argument checks, then the native library or the reference implementation.

The proportions are a torch operator, too, so that what is compiled can hold them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import torch
from torch import Tensor

from medcalib.ops import _cpu, backend, reference
from medcalib.ops._cpu import LABELS
from medcalib.ops.fused import FusedSpec
from medcalib.ops.inputs import check_tensor
from medcalib.ops.label_range import label_range_error
from medcalib.ops.plain import plain
from medcalib.options import check_option

Kernel = Literal["mean", "svls"]
Padding = Literal["background", "replicate", "zeros"]
MAX_WINDOW = 51


def neighborhood_proportions(
    labels: Tensor,
    num_classes: int,
    kernel_size: int | Sequence[int] = 3,
    kernel: Kernel = "mean",
    padding: Padding = "background",
    ignore_index: int | None = None,
    *,
    sigma: float = 1.0,
    dtype: torch.dtype = torch.float32,
) -> Tensor:
    """Weighted share of each class in the window around each voxel, tau_k = sum_j w_j [y_j = k] / sum_j w_j.

    Shapes: labels (B, *S) integers with 2 or 3 spatial axes -> (B, C, *S) `dtype` in [0, 1], summing to 1.

    kernel: "mean" weighs all K = prod(kernel_size) voxels alike; "svls" gives the center 1/2 and neighbors
    G_j / (2 (1 - G_c)) with a Gaussian G of `sigma` voxels. padding: outside the array counts as class 0
    ("background", as in the official NACL and CRaC codes), repeats the edge ("replicate", SVLS), or counts as
    no class ("zeros", MONAI: then the sum is below 1 at borders). Ignored voxels leave the window and the
    shares are renormalized over the rest; a window without a valid voxel gives 0. Raises ValueError for labels that are
    no integers or out of 0..C-1, and for options out of range.

    References: B. Murugesan et al., NACL, arXiv 2303.06268, eq. 3; M. Islam and B. Glocker, SVLS,
    arXiv 2104.05788, section 2.
    """
    if kernel not in ("mean", "svls"):
        raise ValueError(f"kernel must be 'mean' or 'svls', got {kernel!r}")
    check_tensor("labels", labels)
    check_option("num_classes", num_classes, int)
    if num_classes < 1:
        raise ValueError(f"num_classes must be 1 or more, background included, got {num_classes}")
    check_window(kernel_size, sigma)
    if not dtype.is_floating_point:
        raise ValueError(f"dtype must be a floating-point type, got {dtype}")
    size = _checked_size(labels, kernel_size, padding)
    run: Any = torch.ops.medcalib.neighborhood_proportions if torch.compiler.is_compiling() else _proportions
    found: Tensor = run(plain(labels), num_classes, size, kernel, padding, ignore_index, sigma, dtype)
    return found


def _proportions(
    labels: Tensor,
    num_classes: int,
    size: Sequence[int],
    kernel: Kernel,
    padding: Padding,
    ignore_index: int | None,
    sigma: float,
    dtype: torch.dtype,
) -> Tensor:
    size = tuple(size)
    if dtype == torch.float32 and labels.dtype in LABELS and backend.active(labels.device.type) == "native":
        spec = FusedSpec(window=kernel, padding=padding, kernel_size=size, sigma=sigma)
        if labels.numel() and 2 <= num_classes <= 64 and max(size) <= 63 and (kernel == "mean" or sigma >= 0.4):
            return _cpu.shares(labels, num_classes, spec, ignore_index)
    labels, valid, size = checked_labels(labels, size, padding, ignore_index)
    check_range(labels, valid, num_classes, ignore_index)
    return reference.neighborhood_proportions(labels, valid, num_classes, size, kernel, padding, sigma, dtype)


def _proportions_fake(labels: Tensor, num_classes: int, *options: Any) -> Tensor:
    return labels.new_empty((labels.shape[0], num_classes, *labels.shape[1:]), dtype=options[-1])


_LIBRARY = torch.library.Library("medcalib", "FRAGMENT")  # type: ignore[no-untyped-call]
_LIBRARY.define(  # type: ignore[no-untyped-call]
    "neighborhood_proportions(Tensor labels, int num_classes, int[] size, str kernel, str padding, int? ignore_index, "
    "float sigma, ScalarType dtype) -> Tensor"
)
_LIBRARY.impl("neighborhood_proportions", _proportions, "CompositeExplicitAutograd")  # type: ignore[no-untyped-call]
torch.library.register_fake("medcalib::neighborhood_proportions", _proportions_fake, lib=_LIBRARY)


def heterogeneous(
    labels: Tensor,
    kernel_size: int | Sequence[int] = 3,
    padding: Padding = "background",
    ignore_index: int | None = None,
    *,
    by_rounding: torch.dtype | None = None,
) -> Tensor:
    """Whether the window around each voxel holds more than one label: (B, *S) integers -> (B, *S) bool.

    The boundary region of CRaC, arXiv 2403.12364. `padding` is that of `neighborhood_proportions`: with
    "background" a foreground voxel at the edge of the array is a boundary. Ignored voxels leave the window; a window
    without a valid voxel is homogeneous.

    by_rounding: reproduces the official code, which asks whether sum_j (mean - y_j) is not 0. That sum is always 0
    but for rounding, so some boundaries are missed; which, depends on this type. Terms are added in raster order.
    """
    labels, valid, size = checked_labels(labels, kernel_size, padding, ignore_index)
    if by_rounding is not None:
        return reference.heterogeneous_by_rounding(labels, valid, size, padding, by_rounding)
    return reference.heterogeneous(labels, valid, size, padding)


def window_mean(values: Tensor, kernel_size: int | Sequence[int], valid: Tensor | None = None) -> Tensor:
    """Mean of `values (B, K, *S)` over the valid voxels of the window around each voxel.

    `valid (B, *S)` bool; voxels outside the array are not valid. A window without a valid voxel gives NaN. Raises
    ValueError for another number of axes and for an even window.
    """
    check_tensor("values", values)
    axes = values.ndim - 2
    if axes not in (2, 3):
        raise ValueError(f"expected values (B, K, H, W) or (B, K, D, H, W), got shape {tuple(values.shape)}")
    if valid is None:
        valid = torch.ones_like(values[:, 0], dtype=torch.bool)
    return reference.window_mean(values, valid, odd_sizes(kernel_size, axes))


def check_window(kernel_size: int | Sequence[int], sigma: float = 1.0) -> None:
    """Refuse a window that no volume could have; how many axes there are is not known yet. Raises ValueError."""
    check_option("kernel_size", kernel_size, int | Sequence[int])
    check_option("sigma", sigma, float)
    sizes = odd_sizes(kernel_size, 1 if isinstance(kernel_size, int) else len(kernel_size))
    if max(sizes, default=1) > MAX_WINDOW:  # an edge of 1001 would ask for 4 GB a class
        raise ValueError(f"kernel_size must be at most {MAX_WINDOW}, got {kernel_size}")
    if not 0.1 <= sigma <= 100:  # beyond, the Gaussian of a neighbor underflows, or all are equal
        raise ValueError(f"sigma must lie in [0.1, 100] voxels, got {sigma}")


def odd_sizes(kernel_size: int | Sequence[int], axes: int) -> tuple[int, ...]:
    """One odd window size per axis, in array order.

    Raises ValueError for even sizes, and for another number of them than `axes`.
    """
    sizes = (kernel_size,) * axes if isinstance(kernel_size, int) else tuple(kernel_size)
    if any(n < 1 or n % 2 == 0 for n in sizes):
        raise ValueError(f"kernel_size must be odd and positive, got {kernel_size}")
    if len(sizes) != axes:
        raise ValueError(f"kernel_size must be one number or {axes} of them, one per axis, got {kernel_size}")
    return sizes


def check_range(labels: Tensor, valid: Tensor, num_classes: int, ignore_index: int | None) -> None:
    """Refuse labels out of range, on the CPU: elsewhere it would wait for the device each step."""
    if labels.device.type != "cpu" or not labels.numel():
        return
    low, high = (int(bound) for bound in labels.where(valid, 0).aminmax())
    if low < 0 or high >= num_classes:
        raise label_range_error(low, high, num_classes, ignore_index)


def checked_labels(
    labels: Tensor, kernel_size: int | Sequence[int], padding: str, ignore_index: int | None
) -> tuple[Tensor, Tensor, tuple[int, ...]]:
    """Plain int64 labels, which of them count, and the window.

    Raises ValueError for labels of another shape or type than (B, *S) integers.
    """
    size = _checked_size(labels, kernel_size, padding)
    labels = plain(labels).long()
    valid = torch.ones_like(labels, dtype=torch.bool) if ignore_index is None else labels != ignore_index
    return labels, valid, size


def _checked_size(labels: Tensor, kernel_size: int | Sequence[int], padding: str) -> tuple[int, ...]:
    check_tensor("labels", labels)
    axes = labels.ndim - 1
    if axes not in (2, 3):
        raise ValueError(
            f"expected labels (B, H, W) or (B, D, H, W), without a channel axis, got shape {tuple(labels.shape)}"
        )
    if labels.is_floating_point():
        raise ValueError(f"labels must be integers, got {labels.dtype}; use labels.long()")
    if padding not in ("background", "replicate", "zeros"):
        raise ValueError(f"padding must be 'background', 'replicate' or 'zeros', got {padding!r}")
    return odd_sizes(kernel_size, axes)
