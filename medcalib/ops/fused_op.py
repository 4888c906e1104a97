"""The fused loss as torch operators: schema, kernels by device, shapes for tracing, gradient."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from medcalib.ops import _cpu, backend
from medcalib.ops.fused import FusedSpec, FusedStats

_SCHEMAS = (
    "fused_loss(Tensor logits, Tensor labels, Tensor lam, Tensor rho, float[] numbers, int[] choices, "
    "int? ignore_index, bool want_stats) -> (Tensor, Tensor, Tensor)",
    "fused_loss_backward(Tensor grad_ce, Tensor grad_penalty, Tensor logits, Tensor labels, Tensor lam, Tensor rho, "
    "Tensor stats, float[] numbers, int[] choices, int? ignore_index) -> Tensor",
)
_LIBRARY = torch.library.Library("medcalib", "DEF")  # type: ignore[no-untyped-call]
for _schema in _SCHEMAS:
    _LIBRARY.define(_schema)  # type: ignore[no-untyped-call]


def supports(spec: FusedSpec, logits: Tensor, labels: Tensor) -> bool:
    """Whether the active backend computes this in one pass; otherwise its terms are computed one by one."""
    found = backend.active(logits.device.type)
    if found == "reference" or logits.ndim not in (4, 5) or not 2 <= logits.shape[1] <= 64 or not logits.numel():
        return False
    if spec.kernel_size and len(spec.kernel_size) != logits.ndim - 2:
        return False
    if labels.device != logits.device or labels.dtype not in _cpu.LABELS or logits.dtype not in _cpu.LOGITS:
        return False
    if found == "triton":
        from medcalib.ops import _triton

        return _triton.supports(spec, logits.shape[1], logits.dtype, logits.ndim - 2)
    # a narrower Gaussian leaves neighbors so little weight that float32 loses it beside the center
    return spec.window == "none" or (max(spec.kernel_size) <= 63 and (spec.window == "mean" or spec.sigma >= 0.4))


def fused_loss(
    logits: Tensor,
    labels: Tensor,
    lam: Tensor,
    rho: Tensor,
    spec: FusedSpec,
    ignore_index: int | None = None,
    *,
    want_stats: bool = False,
) -> tuple[Tensor, Tensor, Tensor]:
    """Cross-entropy and penalty, float32 scalars, and the sums of `FusedStats` as one float64 tensor.

    Shapes: logits (B, C, *S) float32, bfloat16 or float16 with 2 or 3 spatial axes, labels (B, *S) uint8, int16, int32
    or int64, lam and rho (2, C) float64. Call it only where `supports` says so. The gradient is recomputed in
    backward and written once; there is no second derivative.
    """
    # the registered operator costs 100 microseconds more a call, which only tracing needs
    if type(logits) is Tensor and logits.device.type == "cpu" and not torch.compiler.is_compiling():
        inputs: tuple[Any, ...] = (logits, labels, lam, rho, spec, ignore_index, want_stats)
        run: Any = _Direct.apply
    else:
        inputs = (logits, labels, lam, rho, spec.numbers(), spec.choices(), ignore_index, want_stats)
        run = torch.ops.medcalib.fused_loss.default
    found: tuple[Tensor, Tensor, Tensor] = run(*inputs)
    return found


def _forward_cpu(*inputs: Any) -> tuple[Tensor, Tensor, Tensor]:
    logits, labels, lam, rho, numbers, choices, ignore_index, want_stats = inputs
    spec = FusedSpec.restore(numbers, choices)
    return _cpu.forward(logits, labels, lam, rho, spec, ignore_index, want_stats)


def _backward_cpu(*inputs: Any) -> Tensor:
    grad_ce, grad_penalty, logits, labels, lam, rho, stats, numbers, choices, ignore_index = inputs
    spec, grads = FusedSpec.restore(numbers, choices), (grad_ce, grad_penalty)
    return _cpu.backward(*grads, logits, labels, lam, rho, stats, spec, ignore_index)


def _forward_cuda(*inputs: Any) -> tuple[Tensor, Tensor, Tensor]:
    from medcalib.ops import _triton

    logits, labels, lam, rho, numbers, choices, ignore_index, want_stats = inputs
    spec = FusedSpec.restore(numbers, choices)
    return _triton.forward(logits.contiguous(), labels.contiguous(), lam, rho, spec, ignore_index, want_stats)


def _backward_cuda(*inputs: Any) -> Tensor:
    from medcalib.ops import _triton

    grad_ce, grad_penalty, logits, labels, lam, rho, stats, numbers, choices, ignore_index = inputs
    spec, grads = FusedSpec.restore(numbers, choices), (grad_ce, grad_penalty)
    return _triton.backward(*grads, logits.contiguous(), labels.contiguous(), lam, rho, stats, spec, ignore_index)


def _forward_fake(logits: Tensor, labels: Tensor, *rest: Any) -> tuple[Tensor, Tensor, Tensor]:
    del labels, rest
    stats = logits.new_empty(FusedStats.size(logits.shape[1]), dtype=torch.float64)
    return logits.new_empty((), dtype=torch.float32), logits.new_empty((), dtype=torch.float32), stats


def _backward_fake(grad_ce: Tensor, grad_penalty: Tensor, logits: Tensor, *rest: Any) -> Tensor:
    del grad_ce, grad_penalty, rest
    return torch.empty_like(logits, memory_format=torch.contiguous_format)


def _save(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor, Tensor]) -> None:
    logits, labels, lam, rho, *ctx.contract, _ = inputs
    ctx.mark_non_differentiable(output[2])
    ctx.save_for_backward(logits, labels, lam, rho, output[2])


def _gradient(ctx: Any, grad_ce: Tensor, grad_penalty: Tensor, _: Tensor) -> tuple[Any, ...]:
    op = torch.ops.medcalib.fused_loss_backward.default
    return (op(grad_ce, grad_penalty, *ctx.saved_tensors, *ctx.contract), *[None] * 7)


def _refuse(ctx: Any, grad: Tensor) -> None:
    del ctx, grad
    raise RuntimeError(
        "the fused losses have no second derivative; set MEDCALIB_BACKEND=reference to differentiate twice"
    )


class _Direct(torch.autograd.Function):
    """The operator on the CPU without the dispatcher."""

    @staticmethod
    def forward(ctx: Any, *inputs: Any) -> tuple[Tensor, Tensor, Tensor]:
        output = _cpu.forward(*inputs)
        _save(ctx, inputs, output)
        return output

    @staticmethod
    def backward(ctx: Any, grad_ce: Tensor, grad_penalty: Tensor, _: Tensor) -> tuple[Any, ...]:
        run: Any = _DirectBackward.apply if torch.is_grad_enabled() else _cpu.backward
        return (run(grad_ce, grad_penalty, *ctx.saved_tensors, *ctx.contract), *[None] * 6)


class _DirectBackward(torch.autograd.Function):
    """Its backward under create_graph: refuses the second derivative when that is asked for."""

    @staticmethod
    def forward(ctx: Any, *inputs: Any) -> Tensor:
        del ctx
        return _cpu.backward(*inputs)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> None:
        _refuse(ctx, grad)


for _name, _kernel, _key in (
    ("fused_loss", _forward_cpu, "CPU"),
    ("fused_loss_backward", _backward_cpu, "CPU"),
    ("fused_loss", _forward_cuda, "CUDA"),
    ("fused_loss_backward", _backward_cuda, "CUDA"),
):
    _LIBRARY.impl(_name, _kernel, _key)  # type: ignore[no-untyped-call]
torch.library.register_fake("medcalib::fused_loss", _forward_fake, lib=_LIBRARY)
torch.library.register_fake("medcalib::fused_loss_backward", _backward_fake, lib=_LIBRARY)
torch.library.register_autograd("medcalib::fused_loss", _gradient, setup_context=_save, lib=_LIBRARY)
torch.library.register_autograd("medcalib::fused_loss_backward", _refuse, lib=_LIBRARY)
