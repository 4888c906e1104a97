"""State of terms that learn between epochs: float64 for good, sums that no wrapper overwrites."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from medcalib.distributed import all_reduce_sum


class Float64Module(nn.Module):
    """Its floating-point buffers move between devices, but `.half()` of a parent leaves their type alone."""

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Float64Module:
        kept = dict(self._buffers)
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        for name, value in kept.items():
            moved = self._buffers[name]
            if value is not None and moved is not None and value.dtype != moved.dtype:
                self._buffers[name] = value.to(moved.device)
        return self


class RunningSums(nn.Module):
    """Float64 sums over voxels since the last `drain`, each `(size,)`, beside the number of voxels.

    Not buffers: DistributedDataParallel copies buffers from rank 0 to all others at each forward, and so would drop
    what the others have seen. Saved and restored as extra state, so that a run can be resumed in mid-epoch.
    """

    def __init__(self, **sizes: int) -> None:
        super().__init__()
        self.values = {name: torch.zeros(size, dtype=torch.float64) for name, size in {"voxels": 1, **sizes}.items()}

    def add(self, voxels: Tensor, **sums: Tensor) -> None:
        """Add sums (size,) by name, which were taken over so many `voxels` (1,)."""
        for name, value in {"voxels": voxels, **sums}.items():
            self.values[name] = self.values[name].to(value.device) + value

    def drain(self) -> dict[str, Tensor] | None:
        """Totals over all ranks, after which all is 0. None where no rank has seen a voxel.

        A collective: every rank must call it.
        """
        packed = all_reduce_sum(torch.cat(list(self.values.values())))
        totals = dict(zip(self.values, torch.split(packed, [len(v) for v in self.values.values()]), strict=True))
        self.clear()
        return totals if float(totals["voxels"]) > 0 else None

    def clear(self) -> None:
        """Forget what was added."""
        self.values = {name: torch.zeros_like(value) for name, value in self.values.items()}

    def get_extra_state(self) -> dict[str, Tensor]:
        """For `state_dict`."""
        return dict(self.values)

    def set_extra_state(self, state: Any) -> None:
        """For `load_state_dict`."""
        self.values = {name: state[name].to(value.device, value.dtype) for name, value in self.values.items()}

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> RunningSums:
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        self.values = {name: value.to(fn(value).device) for name, value in self.values.items()}
        return self
