"""Shared memory, through which loader workers hand over their batches. A container has 64 MiB unless told otherwise."""

from __future__ import annotations

import logging
import math
import os
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from medcalib.errors import ConfigError

log = logging.getLogger(__name__)
PLACE = Path("/dev/shm")  # noqa: S108 - the place, not a temporary file
SMALL = 1 << 30
FIX = "start the container with --shm-size=8g (docker), shm_size: 8g (compose) or --ipc=host, or set train.workers to 0"
_PREFETCHED = 2  # batches that torch asks of each worker ahead
_IN_USE = 2  # the batch of the step, and the next one while it is fetched
_BESIDE = 1 << 20  # queues, and what rounding to pages adds


class SharedMemory(NamedTuple):
    """Bytes of shared memory."""

    total: int
    free: int


def shared_memory() -> SharedMemory | None:
    """What there is; None where the system has no such folder (macOS, Windows)."""
    if not PLACE.is_dir():
        return None
    usage = shutil.disk_usage(PLACE)
    return SharedMemory(usage.total, usage.free)


def batch_bytes(batch_size: int, channels: int, patch_size: Sequence[int]) -> int:
    """Size of a batch: images (B, M, *patch) float32 and labels (B, *patch) uint8."""
    return batch_size * math.prod(patch_size) * (4 * channels + 1)


def require_shared_memory(workers: int, one_batch: int) -> None:
    """Refuse workers whose batches of `one_batch` bytes do not fit: later they end with a bus error or "No space left".

    Under torchrun each process of the machine has as many workers. A warning where they fit into less than 1 GiB:
    NCCL takes of it, too. Raises `ConfigError`.
    """
    memory = shared_memory()
    if not workers or memory is None:
        return
    batches = (workers * _PREFETCHED + _IN_USE) * int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    needed = batches * one_batch + _BESIDE
    if needed > memory.free:
        raise ConfigError(
            f"train.workers: loader workers need {_mib(needed)} of shared memory for {batches} batches of "
            f"{_mib(one_batch)}, {PLACE} has {_mib(memory.free)} free; {FIX}"
        )
    if memory.total < SMALL:
        log.warning("%s holds %s, which is little for loader workers; %s", PLACE, _mib(memory.total), FIX)


def _mib(size: int) -> str:
    return f"{size / 2**20:.4g} MiB"
