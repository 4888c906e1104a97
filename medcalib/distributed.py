"""The process group, as far as one process or many differ. No-ops in one process."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import timedelta

import torch
from torch import Tensor
from torch import distributed as dist

from medcalib.errors import ConfigError, RankError, TrainingError


def start(device: str, timeout_s: float) -> torch.device:
    """Join the ranks that torchrun started, where it did; returns this process's device.

    Read from the environment: WORLD_SIZE, RANK, LOCAL_RANK, MASTER_ADDR, MASTER_PORT. Sums of CPU tensors go through
    gloo, those of CUDA tensors through NCCL; a rank waits `timeout_s` for the others.
    """
    if is_running() or int(os.environ.get("WORLD_SIZE", "1")) == 1:
        return resolve_device(device)
    missing = [name for name in ("RANK", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT") if name not in os.environ]
    if missing or not dist.is_available():
        raise ConfigError(
            f"WORLD_SIZE={os.environ['WORLD_SIZE']} asks for several ranks, but "
            + (f"{', '.join(missing)} is not set; start them with torchrun" if missing else "this torch has no gloo")
        )
    chosen = _device_of_rank(device, int(os.environ["LOCAL_RANK"]))
    if chosen.type == "cuda":
        torch.cuda.set_device(chosen)
    with peers():
        backend = "cpu:gloo,cuda:nccl" if chosen.type == "cuda" else "gloo"
        dist.init_process_group(backend, timeout=timedelta(seconds=timeout_s))
    return chosen


def _device_of_rank(name: str, local_rank: int) -> torch.device:
    if ":" in name:
        raise ConfigError(f"device {name!r} is one device, but several ranks run; expected auto, cuda or cpu")
    kind = resolve_device(name).type
    return resolve_device(f"cuda:{local_rank}") if kind == "cuda" else torch.device("cpu")


def is_running() -> bool:
    """Whether a process group of several ranks is up."""
    return dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1


def rank() -> int:
    """This process's rank, 0 in one process."""
    return dist.get_rank() if is_running() else 0


def ranks() -> int:
    """How many ranks there are, 1 in one process."""
    return dist.get_world_size() if is_running() else 1


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
        with peers():
            dist.all_reduce(values, op=dist.ReduceOp.SUM)
    return values


def largest(*values: int) -> tuple[int, ...]:
    """Each value's maximum over ranks."""
    if not is_running():
        return values
    tensor = torch.tensor(values, dtype=torch.int64, device=reduction_device())
    with peers():
        dist.all_reduce(tensor, op=dist.ReduceOp.MAX)
    return tuple(tensor.tolist())


def any_rank(flag: bool) -> bool:
    """Whether the flag is set on some rank; the same answer on all."""
    return bool(largest(int(flag))[0])


def broadcast(values: Tensor) -> None:
    """Overwrite the values with those of rank 0."""
    if is_running():
        with peers():
            dist.broadcast(values, 0)


def all_gather_rows(rows: Tensor) -> Tensor:
    """The rows `(n, k)` of all ranks, in the order of ranks; n may differ between them."""
    if not is_running():
        return rows
    lengths = torch.zeros(dist.get_world_size(), dtype=torch.int64, device=rows.device)
    lengths[dist.get_rank()] = len(rows)
    with peers():
        dist.all_reduce(lengths)
        longest = rows.new_zeros(int(lengths.max()), rows.shape[1])
        longest[: len(rows)] = rows
        gathered = [torch.empty_like(longest) for _ in lengths]
        dist.all_gather(gathered, longest)
    return torch.cat([part[:length] for part, length in zip(gathered, lengths.tolist(), strict=True)])


def all_gather_bytes(content: bytes) -> list[bytes]:
    """The contents of all ranks, in the order of ranks."""
    device = reduction_device()
    rows = torch.frombuffer(bytearray(content), dtype=torch.uint8).unsqueeze(1).to(device)
    joined = bytes(all_gather_rows(rows).squeeze(1).cpu().numpy())
    lengths = all_gather_rows(torch.tensor([[len(content)]], device=device)).squeeze(1)
    ends = lengths.cumsum(0).tolist()
    return [joined[end - length : end] for end, length in zip(ends, lengths.tolist(), strict=True)]


@contextmanager
def together() -> Iterator[None]:
    """A block without collective calls that all ranks enter: an error of one ends it on all.

    Raises `TrainingError` where another rank failed. Nobody leaves before all have come.
    """
    try:
        yield
    except Exception:
        with suppress(RankError):  # this rank's own error is what the user needs
            any_rank(True)
        raise
    if any_rank(False):
        raise TrainingError("another rank could not go on; its message says why")


@contextmanager
def peers() -> Iterator[None]:
    """Turns what torch says of a lost rank into a `RankError`."""
    try:
        yield
    except RuntimeError as error:
        lost = lost_rank(error)
        if lost is None:
            raise
        raise lost from error


def lost_rank(error: BaseException) -> RankError | None:
    """A readable form of what torch raises when a rank is gone; None for another error."""
    text = str(error)
    if not isinstance(error, dist.DistError) and not ("gloo" in text or "NCCL" in text):
        return None
    return RankError(
        f"rank {rank()} of {ranks()} waited in vain: another rank has ended, or hangs. The first message of the others "
        "says why (killed without a message: mostly for memory). If all were only slow, raise train.rank_timeout_s. "
        f"The checkpoints are intact: continue with --resume. torch says: {text.splitlines()[0] if text else error!r}"
    )


def leave(code: int) -> None:
    """End a rank at once; nothing in one process.

    To destroy the group can hang: torch holds the GIL while it joins gloo's threads, one of which may be waiting for
    the GIL to let go of a tensor.
    """
    if is_running():
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


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
        raise ConfigError(
            f"device {name!r} was asked for, but torch sees {torch.cuda.device_count()} CUDA devices; take cpu, or see "
            "`medcalib doctor`"
        )
    return torch.device(name)
