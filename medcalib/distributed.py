"""The process group, as far as one process or many differ. No-ops in one process."""

from __future__ import annotations

import torch
from torch import Tensor
from torch import distributed as dist

from medcalib.errors import ConfigError


def is_running() -> bool:
    """Whether a process group of several ranks is up."""
    return dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1


def rank() -> int:
    """This process's rank, 0 in one process."""
    return dist.get_rank() if is_running() else 0


def is_main() -> bool:
    """Whether this process writes files and shows progress."""
    return rank() == 0


def reduction_device() -> torch.device:
    """Where tensors must lie to be reduced: NCCL takes those on the GPU only."""
    if is_running() and dist.get_backend() == "nccl":
        return torch.device("cuda", torch.cuda.current_device())
    return torch.device("cpu")


def all_reduce_sum(values: Tensor) -> Tensor:
    """Sum over ranks; integers and float64 are exact enough to be the same on every rank."""
    if is_running():
        values = values.clone()
        dist.all_reduce(values, op=dist.ReduceOp.SUM)
    return values


def all_gather_rows(rows: Tensor) -> Tensor:
    """The rows `(n, k)` of all ranks, in the order of ranks; n may differ between them."""
    if not is_running():
        return rows
    lengths = torch.zeros(dist.get_world_size(), dtype=torch.int64, device=rows.device)
    lengths[dist.get_rank()] = len(rows)
    dist.all_reduce(lengths)
    longest = rows.new_zeros(int(lengths.max()), rows.shape[1])
    longest[: len(rows)] = rows
    gathered = [torch.empty_like(longest) for _ in lengths]
    dist.all_gather(gathered, longest)
    return torch.cat([part[:length] for part, length in zip(gathered, lengths.tolist(), strict=True)])


def resolve_device(name: str) -> torch.device:
    """`auto` is CUDA where it works; a device asked for by name but absent is refused, never replaced."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    kind, _, number = name.partition(":")
    if kind == "cpu" and not number:
        return torch.device("cpu")
    if kind != "cuda" or not (number or "0").isdecimal():
        raise ConfigError(f"device {name!r}: expected auto, cpu, cuda or cuda:0, cuda:1, ...")
    if not torch.cuda.is_available() or int(number or 0) >= torch.cuda.device_count():
        raise ConfigError(f"device {name!r} was asked for, but torch sees {torch.cuda.device_count()} CUDA devices")
    return torch.device(name)
