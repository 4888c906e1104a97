"""The fused pass on CUDA: what it serves, and the launches of `_triton_kernels`."""

from __future__ import annotations

from functools import lru_cache
from math import prod
from typing import Any

import torch
from torch import Tensor

from medcalib.ops import _triton_kernels as kernels
from medcalib.ops.fused import PADDINGS, PENALTIES, TARGETS, FusedSpec, FusedStats

WARPS = 4
PROGRAMS = 2048  # enough to fill a large device a few times
FEW_CLASSES = 6  # a window of 3x3x3 then fits one word
ONE_CHUNK = 16  # compiling takes time that grows with the cube of the classes of a chunk


def supports(spec: FusedSpec, num_classes: int, dtype: torch.dtype, spatial_axes: int) -> bool:
    """Whether `forward` and `backward` serve this case; for "neighbor" lam and rho must not be negative."""
    size = spec.kernel_size
    window = spec.window == "mean" and len(size) == spatial_axes and all(n in (1, 3, 5) for n in size)
    return (
        spec.target in ("none", "label")
        and (window or spec.penalty != "neighbor")
        and (spec.power in (1, 2, -2) or spec.penalty != "margin")
        and 2 <= num_classes <= 64
        and dtype in (torch.float32, torch.bfloat16, torch.float16)
        and spatial_axes in (2, 3)
    )


def forward(
    logits: Tensor,
    labels: Tensor,
    lam: Tensor,
    rho: Tensor,
    spec: FusedSpec,
    ignore_index: int | None,
    want_stats: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    """Cross-entropy and penalty, float32 scalars, and the sums of `FusedStats`, but for the count all 0 without
    `want_stats`.

    Shapes: logits (B, C, *S) and labels (B, *S), contiguous, lam and rho (2, C) float64, all on one device.
    """
    plan = plan_for(spec, tuple(logits.shape), ignore_index, want_stats)
    volume, steps, programs = _grid(logits, plan)
    rows = 4 + 5 * plan.classes * plan.want_stats
    # not every penalty has all the rows
    allocate = torch.zeros if want_stats else torch.empty
    partial = allocate(rows, programs, dtype=torch.float32, device=logits.device)
    ce, penalty = (torch.empty((), dtype=torch.float32, device=logits.device) for _ in range(2))
    stats = torch.empty(FusedStats.size(plan.classes), dtype=torch.float64, device=logits.device)
    with _device_of(logits):
        tensors = logits, labels, lam.contiguous(), rho.contiguous(), partial
        rest = volume, steps, ignore_index or 0, _numbers(spec), kernels.constants(plan)
        launch(kernels.forward_kernel, programs, (*tensors, *rest))
        launch(kernels.finish_kernel, 2 + len(stats), (partial, ce, penalty, stats, programs, rows, 1024))
    return ce, penalty, stats


def backward(
    grad_ce: Tensor,
    grad_penalty: Tensor,
    logits: Tensor,
    labels: Tensor,
    lam: Tensor,
    rho: Tensor,
    stats: Tensor,
    spec: FusedSpec,
    ignore_index: int | None,
) -> Tensor:
    """The gradient of the logits, in their dtype, from those of the two scalars; the rest as in `forward`."""
    plan = plan_for(spec, tuple(logits.shape), ignore_index, False)
    volume, steps, programs = _grid(logits, plan)
    gradient = torch.empty_like(logits)
    with _device_of(logits):
        tensors = grad_ce, grad_penalty, logits, labels, lam.contiguous(), rho.contiguous(), stats, gradient
        rest = volume, steps, ignore_index or 0, _numbers(spec), kernels.constants(plan)
        launch(kernels.backward_kernel, programs, (*tensors, *rest))
    return gradient


def launch(kernel: Any, programs: int, arguments: tuple[Any, ...]) -> None:
    """Start a kernel. Products are rounded before they are added to, so that a logit equal to its target is seen so."""
    kernel[(programs,)](*arguments, num_warps=WARPS, enable_fp_fusion=False)


@lru_cache(maxsize=64)
def plan_for(spec: FusedSpec, shape: tuple[int, ...], ignore_index: int | None, want_stats: bool) -> kernels.Plan:
    """What the kernels are compiled for."""
    classes, axes = shape[1], shape[2:]
    # planes of a window have no third axis to march along in 2D
    size = (1,) * (3 - len(axes)) + tuple(spec.kernel_size) if spec.penalty == "neighbor" else (1, 1, 1)
    bits = prod(size).bit_length()
    counted = classes + (ignore_index is not None)
    words = -(-counted // (32 // bits))
    counters = -(-counted // words)
    chunk = classes if classes <= ONE_CHUNK else counters
    class_mean = spec.class_mean and spec.penalty == "neighbor"
    multiplied = spec.penalty in ("cals", "neighbor")
    # two voxels a thread share index arithmetic, where registers allow it
    pairs = classes <= FEW_CLASSES and prod(size) <= 27 and not want_stats
    return kernels.Plan(
        classes=classes,
        chunk=chunk,
        chunks=-(-classes // chunk),
        block=32 * WARPS * (1 + pairs),
        target=TARGETS.index(spec.target),
        smooth=int((spec.own, spec.rest) != (1.0, 0.0)),
        penalty=PENALTIES.index(spec.penalty),
        power=spec.power,
        by_region=int(spec.by_region and spec.penalty == "neighbor"),
        class_mean=int(class_mean),
        multipliers=(1 if class_mean else chunk) if multiplied else 0,
        padding=PADDINGS.index(spec.padding),
        ignoring=0 if ignore_index is None else 1 + (ignore_index == 0),
        want_stats=int(want_stats),
        depth=size[0],
        height=size[1],
        width=size[2],
        bits=bits,
        counters=counters,
        words=words,
        mask=(1 << bits) - 1,
        below_ignored=(1 << bits * (classes % counters)) - 1,
        wide=int(prod(axes) >= 2**31 - 2**16),
    )


def _grid(logits: Tensor, plan: kernels.Plan) -> tuple[kernels.Volume, int, int]:
    """The volume, planes a program, programs."""
    depth, height, width = (1,) * (5 - logits.ndim) + tuple(logits.shape[2:])
    tiles = logits.shape[0] * -(-height * width // plan.block) * (plan.chunks if plan.want_stats else 1)
    # long marches load fewer labels twice, short ones fill the device
    steps = next((n for n in (32, 16, 8) if tiles * -(-depth // n) >= PROGRAMS), 4)
    return kernels.Volume(depth, height, width, depth * height * width), steps, tiles * -(-depth // steps)


def _numbers(spec: FusedSpec) -> kernels.Numbers:
    return kernels.Numbers(*(float(getattr(spec, name)) for name in kernels.Numbers._fields))


def _device_of(tensor: Tensor) -> torch.cuda.device:
    """Makes the device of a tensor the current one; of no effect on CPU, where kernels are interpreted."""
    return torch.cuda.device(tensor.device if tensor.is_cuda else -1)
