"""Calls of the scorer into the native library: arrays become addresses, return codes become errors."""

from __future__ import annotations

import ctypes

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from medcalib.ops import _native
from medcalib.ops._score_tables import Arrays, ScoreSpec, bad_values
from medcalib.ops.label_range import LEAVE_OUT, label_range_error

VALUES = {torch.float32: 0, torch.float64: 1}
LABELS = {torch.uint8: 0, torch.int16: 1, torch.int32: 2, torch.int64: 3}
_REGIONS = 8  # at a time: a voxel's combination of regions is a byte
_CLASSES = 255
_TABLES = {
    "n": "n", "correct": "correct", "conf_hi": "conf_hi", "conf_lo": "conf_lo", "square": "square",
    "confusion": "confusion", "sums": "sums", "zero": "zero_probability",
}  # fmt: skip


def can(spec: ScoreSpec) -> bool:
    """Whether the library counts this; a known posterior, and more than 255 classes, are left to the reference."""
    return not spec.has_posterior and max(spec.channels, spec.num_classes) <= _CLASSES


class NativeScorer:
    """Adds voxels to the tables; keeps the library's memory from call to call (see BUDGET in csrc/score_api.cpp)."""

    def __init__(self, spec: ScoreSpec, arrays: Arrays) -> None:
        self._spec, self._arrays = spec, arrays
        self._threads = torch.get_num_threads()
        self._scratch: list[NDArray[np.uint8]] = []
        listed = spec.composites if spec.groups is None else spec.groups
        self._members = np.zeros((max(len(listed), 1), spec.num_classes), np.uint8)
        for row, members in zip(self._members, listed, strict=False):
            row[list(members)] = 1

    def add(self, values: Tensor, labels: Tensor, holds: Tensor) -> None:
        """values (channels, n) with neighbors side by side, labels (n,) contiguous, holds (R, n) bool."""
        for i, first in enumerate(range(0, self._spec.num_regions, _REGIONS)):
            part = slice(first, min(first + _REGIONS, self._spec.num_regions))
            problem = self._problem(values, labels, holds, part)
            if i == len(self._scratch):
                size = _library().medcalib_score_bytes(ctypes.byref(problem))
                self._scratch.append(np.zeros(max(size, 0) + 64, np.uint8))
            address = self._scratch[i].ctypes.data
            problem.scratch = address + -address % 64
            self._run(problem, values, labels, holds[part])

    def _problem(self, values: Tensor, labels: Tensor, holds: Tensor, part: slice) -> _native.ScoreProblem:
        spec = self._spec
        problem = _native.ScoreProblem(
            values=values.data_ptr(),
            labels=labels.data_ptr(),
            holds=holds[part].data_ptr(),
            members=self._members.ctypes.data,
            voxels=labels.numel(),
            value_stride=values.stride(0),
            holds_stride=holds.stride(0),
            channels=spec.channels,
            classes=spec.num_classes,
            regions=part.stop - part.start,
            composites=len(spec.composites),
            values_type=VALUES[values.dtype],
            labels_type=LABELS[labels.dtype],
            logits=spec.from_logits,
            grouped=spec.groups is not None,
            classwise=spec.classwise,
            threads=self._threads,
        )
        for name, table in _TABLES.items():
            setattr(problem, name, self._arrays[table][part].ctypes.data)
        return problem

    def _run(self, problem: _native.ScoreProblem, values: Tensor, labels: Tensor, holds: Tensor) -> None:
        code = _library().medcalib_score(ctypes.byref(problem))
        if code == 0:
            return
        counted = holds.any(0)
        if code == 1:
            low, high = labels[counted].aminmax()
            raise label_range_error(int(low), int(high), self._spec.num_classes, None, LEAVE_OUT)
        if code == 4:
            low, high = values[:, counted].aminmax()
            raise bad_values(float(low), float(high), self._spec.from_logits)
        raise RuntimeError(f"the native library refused to score (code {code}); set MEDCALIB_BACKEND=reference")


def _library() -> ctypes.CDLL:
    if _native.LIB is None:
        raise RuntimeError(_native.WHY)
    return _native.LIB
