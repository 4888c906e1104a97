"""Calls into the native library: tensors become addresses, return codes become errors."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence

import torch
from torch import Tensor

from medcalib.ops import _native
from medcalib.ops.fused import FusedSpec, FusedStats
from medcalib.ops.label_range import label_range_error

LOGITS = {torch.float32: 0, torch.bfloat16: 1, torch.float16: 2}
LABELS = {torch.uint8: 0, torch.int16: 1, torch.int32: 2, torch.int64: 3}
NUMBERS = (
    "own", "rest", "margin", "inverse_norm", "weight_top", "weight_rest", "factor_boundary", "factor_interior",
    "scale", "lam_min", "lam_max", "sigma",
)  # fmt: skip
CHOICES = ("target", "penalty", "power", "by_region", "class_mean", "window", "padding")
Contract = tuple[Sequence[float], Sequence[int], int | None]  # numbers and choices of a FusedSpec, ignore_index


def forward(
    logits: Tensor, labels: Tensor, lam: Tensor, rho: Tensor, contract: Contract, want_stats: bool
) -> tuple[Tensor, Tensor]:
    """Loss parts (2,) float32 and sums for multipliers; see `medcalib.ops.fused`."""
    logits, labels, lam, rho = (t.contiguous() for t in (logits, labels, lam, rho))
    problem = _problem(logits, labels, contract)
    problem.logits, problem.lam, problem.rho = logits.data_ptr(), lam.data_ptr(), rho.data_ptr()
    parts = torch.empty(2, dtype=torch.float64)
    stats = torch.empty(FusedStats.size(logits.shape[1]), dtype=torch.float64)
    problem.parts, problem.stats, problem.want_stats = parts.data_ptr(), stats.data_ptr(), want_stats
    _run(_library().medcalib_forward(ctypes.byref(problem)), logits.shape[1], labels, contract[2])
    return parts.float(), stats


def backward(
    grad: Tensor, logits: Tensor, labels: Tensor, lam: Tensor, rho: Tensor, stats: Tensor, contract: Contract
) -> Tensor:
    """The gradient of the logits, in their dtype."""
    logits, labels, lam, rho = (t.contiguous() for t in (logits, labels, lam, rho))
    problem = _problem(logits, labels, contract)
    problem.logits, problem.lam, problem.rho = logits.data_ptr(), lam.data_ptr(), rho.data_ptr()
    found = torch.empty_like(logits)
    problem.grad = found.data_ptr()
    first, second = grad.tolist()
    count = max(float(stats[0]), 1.0)
    problem.grad_ce, problem.grad_penalty = first / count, second / count
    _run(_library().medcalib_backward(ctypes.byref(problem)), logits.shape[1], labels, contract[2])
    return found


def shares(labels: Tensor, num_classes: int, spec: FusedSpec, ignore_index: int | None) -> Tensor:
    """Class proportions (B, C, *S) float32; see `medcalib.ops.neighborhood_proportions`."""
    labels = labels.contiguous()
    found = torch.empty(labels.shape[0], num_classes, *labels.shape[1:])
    contract = spec.numbers(), spec.choices(), ignore_index
    problem = _problem(found, labels, contract)
    _run(
        _library().medcalib_shares(ctypes.byref(problem), ctypes.c_void_p(found.data_ptr())),
        num_classes,
        labels,
        ignore_index,
    )
    return found


def _library() -> ctypes.CDLL:
    if _native.LIB is None:
        raise RuntimeError(_native.WHY)
    return _native.LIB


def _problem(logits: Tensor, labels: Tensor, contract: Contract) -> _native.Problem:
    numbers, choices, ignore_index = contract
    window = list(choices[len(CHOICES) :])
    shape = list(logits.shape[2:])
    if len(shape) == 2:  # rows take the place of planes
        shape = [shape[0], 1, shape[1]]
        window = [window[0], 1, window[1]] if window else []
    problem = _native.Problem(
        labels=labels.data_ptr(),
        batch=logits.shape[0],
        classes=logits.shape[1],
        depth=shape[0],
        height=shape[1],
        width=shape[2],
        logits_type=LOGITS[logits.dtype],
        labels_type=LABELS[labels.dtype],
        has_ignore=ignore_index is not None,
        ignore_index=ignore_index or 0,
        threads=torch.get_num_threads(),
        size=(ctypes.c_int32 * 3)(*(window or (1, 1, 1))),
    )
    for name, value in zip((*NUMBERS, *CHOICES), (*numbers, *choices[: len(CHOICES)]), strict=True):
        setattr(problem, name, value)
    return problem


def _run(code: int, num_classes: int, labels: Tensor, ignore_index: int | None) -> None:
    if code == 1:
        low, high = (labels if ignore_index is None else labels[labels != ignore_index]).aminmax()
        raise label_range_error(int(low), int(high), num_classes, ignore_index)
    if code == 2:
        raise MemoryError("the native library could not allocate its buffers")
    if code:
        raise RuntimeError(f"the native library refused the problem (code {code}); set MEDCALIB_BACKEND=reference")
