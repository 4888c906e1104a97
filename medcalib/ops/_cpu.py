"""Calls into the native library: tensors become addresses, return codes become errors."""

from __future__ import annotations

import ctypes
from functools import lru_cache

import torch
from torch import Tensor

from medcalib.ops import _native
from medcalib.ops.fused import FusedSpec, FusedStats
from medcalib.ops.label_range import label_range_error, not_ignored

LOGITS = {torch.float32: 0, torch.bfloat16: 1, torch.float16: 2}
LABELS = {torch.uint8: 0, torch.int16: 1, torch.int32: 2, torch.int64: 3}


def forward(
    logits: Tensor,
    labels: Tensor,
    lam: Tensor,
    rho: Tensor,
    spec: FusedSpec,
    ignore_index: int | None,
    want_stats: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    """Cross-entropy and penalty, scalars in float32, and sums for multipliers; see `medcalib.ops.fused`."""
    logits, labels, lam, rho = (t.contiguous() for t in (logits, labels, lam, rho))
    ce, penalty = torch.empty((), dtype=torch.float32), torch.empty((), dtype=torch.float32)
    stats = torch.empty(FusedStats.size(logits.shape[1]), dtype=torch.float64)
    problem = _problem(logits, labels, spec, ignore_index)
    problem.logits, problem.lam, problem.rho = logits.data_ptr(), lam.data_ptr(), rho.data_ptr()
    problem.ce, problem.penalty_value, problem.stats = ce.data_ptr(), penalty.data_ptr(), stats.data_ptr()
    problem.want_stats = want_stats
    _run(_library().medcalib_forward(problem), logits.shape[1], labels, ignore_index)
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
    """The gradient of the logits, in their dtype."""
    logits, labels, lam, rho = (t.contiguous() for t in (logits, labels, lam, rho))
    found = torch.empty_like(logits)
    problem = _problem(logits, labels, spec, ignore_index)
    problem.logits, problem.lam, problem.rho = logits.data_ptr(), lam.data_ptr(), rho.data_ptr()
    problem.ce, problem.penalty_value = grad_ce.data_ptr(), grad_penalty.data_ptr()
    problem.stats, problem.grad = stats.data_ptr(), found.data_ptr()
    _run(_library().medcalib_backward(problem), logits.shape[1], labels, ignore_index)
    return found


def shares(labels: Tensor, num_classes: int, spec: FusedSpec, ignore_index: int | None) -> Tensor:
    """Class proportions (B, C, *S) float32; see `medcalib.ops.neighborhood_proportions`."""
    labels = labels.contiguous()
    found = torch.empty(labels.shape[0], num_classes, *labels.shape[1:])
    problem = _problem(found, labels, spec, ignore_index)
    problem.grad = found.data_ptr()
    _run(_library().medcalib_shares(problem), num_classes, labels, ignore_index)
    return found


def _library() -> ctypes.CDLL:
    if _native.LIB is None:
        raise RuntimeError(_native.WHY)
    return _native.LIB


def _problem(logits: Tensor, labels: Tensor, spec: FusedSpec, ignore_index: int | None) -> _native.Problem:
    """What the call works on, but for the addresses that differ between calls."""
    key = (spec, ignore_index, logits.shape, logits.dtype, labels.dtype, torch.get_num_threads())
    problem = _native.Problem.from_buffer_copy(_template(*key))
    problem.labels = labels.data_ptr()
    return problem


@lru_cache(maxsize=256)  # filling forty fields takes longer than a small batch
def _template(
    spec: FusedSpec,
    ignore_index: int | None,
    shape: torch.Size,
    logits_dtype: torch.dtype,
    labels_dtype: torch.dtype,
    threads: int,
) -> bytes:
    batch, classes, *size = shape
    window = list(spec.kernel_size)
    if len(size) == 2:  # rows take the place of planes
        size = [size[0], 1, size[1]]
        window = [window[0], 1, window[1]] if window else []
    problem = _native.Problem(
        batch=batch,
        classes=classes,
        depth=size[0],
        height=size[1],
        width=size[2],
        logits_type=LOGITS[logits_dtype],
        labels_type=LABELS[labels_dtype],
        has_ignore=ignore_index is not None,
        ignore_index=ignore_index or 0,
        threads=threads,
        size=(ctypes.c_int32 * 3)(*(window or (1, 1, 1))),
    )
    for name, value in spec.coded().items():
        setattr(problem, name, value)
    return bytes(problem)


def _run(code: int, num_classes: int, labels: Tensor, ignore_index: int | None) -> None:
    if code == 1:
        low, high = labels[not_ignored(labels, ignore_index)].aminmax()
        raise label_range_error(int(low), int(high), num_classes, ignore_index)
    if code == 2:
        raise MemoryError("the native library could not allocate its buffers")
    if code:
        raise RuntimeError(f"the native library refused the problem (code {code}); set MEDCALIB_BACKEND=reference")
