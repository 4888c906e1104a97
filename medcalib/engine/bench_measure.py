"""How `medcalib bench` measures: interleaved samples without those that other processes disturbed, and peak memory."""

from __future__ import annotations

import contextlib
import json
import logging
import math
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor

from medcalib.engine.bench_peers import BASELINE, COMPILED, COPY, Contestant, Loss, Shape, batch, contestants

try:
    import resource
except ImportError:  # Windows
    resource = None  # type: ignore[assignment]

log = logging.getLogger(__name__)

Work = Callable[[Callable[[], None]], object]  # calls its argument between forward and backward; returns what to free
_STATUS, _CLEAR, _THREADS = Path("/proc/self/status"), Path("/proc/self/clear_refs"), Path("/proc/self/task")
_TOLERATED = 0.05  # of the time of a sample
_TOO_SMALL = 1 << 20  # bytes of logits, below which the memory that a process takes tells nothing
# of glibc; elsewhere without effect. Each block that is freed goes back at once, so that the peak is what is in use
_RETURN_MEMORY = {"MALLOC_MMAP_THRESHOLD_": "131072"}
# none goes back, so that neither a gradient nor a copy pays for page faults
_KEEP_MEMORY = {"MALLOC_MMAP_MAX_": "0", "MALLOC_TRIM_THRESHOLD_": str(2**40), "MALLOC_TOP_PAD_": str(2**26)}


class Sample(NamedTuple):
    """Seconds of one piece of work, its backward alone, and whether other processes left it alone."""

    total: float
    backward: float
    clean: bool


def interleaved(works: Mapping[str, Work], rounds: int, device: str) -> dict[str, list[Sample]]:
    """Every work in turn, `rounds` times after one that does not count; a peer that cannot run is left out."""
    alive = {name: work for name, work in works.items() if _runs(name, work, device)}
    samples: dict[str, list[Sample]] = {name: [] for name in alive}
    for _ in range(rounds):
        for name, work in alive.items():
            samples[name].append(take(work, device))
    return samples


def take(work: Work, device: str) -> Sample:
    """Do it once. What it returns is freed after the clock has stopped."""
    cuda, preempted, waited = device == "cuda", _preemptions(), _waited()
    marks = [_now(cuda)]
    kept = work(lambda: marks.append(_now(cuda)))
    marks.append(_now(cuda))
    if cuda:
        torch.cuda.synchronize()
    clean, waited = preempted == _preemptions(), _waited() - waited
    del kept
    total = _seconds(marks[0], marks[-1])
    return Sample(total, _seconds(marks[-2], marks[-1]), clean and waited < _TOLERATED * total)


def typical(samples: Sequence[Sample], what: Literal["total", "backward"] = "total") -> float:
    """Median seconds of the undisturbed samples; where there is none, of the fastest quarter."""
    seconds = [(sample.total if what == "total" else sample.backward, sample.clean) for sample in samples]
    clean = [s for s, undisturbed in seconds if undisturbed]
    fastest = sorted(s for s, _ in seconds)[: max(1, len(seconds) // 4)]
    return statistics.median(clean or fastest)


def loss_work(loss: Loss, logits: Tensor, labels: Tensor) -> Work:
    """Forward and backward; the gradient is memory that the allocator hands out, as in training."""

    def work(mark: Callable[[], None]) -> object:
        value = loss(logits, labels)
        mark()
        return value, torch.autograd.grad(value, logits)

    return work


def loss_works(known: Mapping[str, Contestant], logits: Tensor, labels: Tensor) -> dict[str, Work]:
    """The work of each contestant on one batch."""
    classes, device, detached = logits.shape[1], logits.device.type, logits.detach()
    return {
        name: (lambda _: detached.clone())
        if contestant.build is None
        else loss_work(contestant.ready(classes, device), logits, labels)
        for name, contestant in known.items()
    }


def gradient_seconds(names: Sequence[str], shape: Shape, device: str, threads: int, rounds: int) -> dict[str, float]:
    """Backward alone, and a copy of the logits, in memory that is already there."""
    if device == "cuda":  # its allocator keeps memory
        return _gradients(names, shape, device, rounds)
    job = {"task": "gradient", "names": list(names), "shape": shape, "threads": threads, "rounds": rounds}
    return dict(_elsewhere(job, _KEEP_MEMORY) or {})


def peak_memory(name: str, shape: Shape, device: str, threads: int) -> float | None:
    """Peak beyond logits and labels over forward and backward, the gradient included, in multiples of the logits.

    On the CPU in a process of its own, as memory that was in use once is not always given back; None where the logits
    are too small for it to show.
    """
    if device == "cuda":
        return _peak(name, shape, device)
    if 4 * math.prod(shape) < _TOO_SMALL:
        return None
    found = _elsewhere({"task": "memory", "name": name, "shape": shape, "threads": threads}, _RETURN_MEMORY)
    return None if found is None else float(found)


def worker() -> None:
    """What `_elsewhere` runs: a job in, its result out, both JSON."""
    job = json.loads(sys.argv[1])
    torch.set_num_threads(job["threads"])
    shape = tuple(job["shape"])
    if job["task"] == "memory":
        found: Any = _peak(job["name"], shape, "cpu")
    else:
        found = _gradients(job["names"], shape, "cpu", job["rounds"])
    sys.stdout.write("\n" + json.dumps(found))


def _elsewhere(job: dict[str, Any], environment: dict[str, str]) -> Any:
    """The result of a job in a process of its own; None, with a word on it, where that did not end well."""
    command = [sys.executable, "-c", f"from {__name__} import worker; worker()", json.dumps(job)]
    done = subprocess.run(  # noqa: S603 - this interpreter and this module
        command, capture_output=True, text=True, env={**os.environ, **environment}, check=False
    )
    if done.returncode:
        reason = (done.stderr.strip() or f"exit code {done.returncode}").splitlines()[-1]
        log.warning("%s of %s: not measured (%s)", job["task"], job.get("name", "all"), reason)
        return None
    return json.loads(done.stdout.splitlines()[-1])


def _gradients(names: Sequence[str], shape: Shape, device: str, rounds: int) -> dict[str, float]:
    known = contestants(compiled=any(name.startswith(COMPILED) for name in names))
    works = loss_works({name: known[name] for name in names}, *batch(shape, device))
    return {name: typical(s, "backward") for name, s in interleaved(works, rounds, device).items()}


def _peak(name: str, shape: Shape, device: str) -> float:
    """In this process, after a small batch that loads what is loaded at first use."""
    contestant = contestants(compiled=name.startswith(COMPILED))[name]
    small = (1, shape[1], *(min(n, 8) for n in shape[2:]))
    logits, labels = batch(shape, device)
    loss = contestant.ready(shape[1], device)
    loss_work(loss, *batch(shape if name.startswith(COMPILED) else small, device))(lambda: None)
    work = loss_work(loss, logits, labels)
    if device == "cuda":
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        kept = work(lambda: None)
        extra = torch.cuda.max_memory_allocated() - before
    else:
        before = _peak_bytes(reset=True)
        kept = work(lambda: None)
        extra = _peak_bytes() - before
    del kept
    return extra / logits.nbytes


def _peak_bytes(*, reset: bool = False) -> int:
    """Largest resident size since the last reset; since the start where the system has no reset.

    Not ru_maxrss on Linux: a new process starts with that of its parent.
    """
    if _CLEAR.exists():
        if reset:
            _CLEAR.write_text("5", encoding="ascii")
        line = next(line for line in _STATUS.read_text(encoding="ascii").splitlines() if line.startswith("VmHWM"))
        return int(line.split()[1]) * 1024
    if resource is None:
        raise RuntimeError("this system does not tell peak memory")
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def _runs(name: str, work: Work, device: str) -> bool:
    """Whether a first, uncounted run succeeds: a peer may need too much memory, or a compiler."""
    try:
        take(work, device)
    except RuntimeError as error:
        lacking = isinstance(error, torch.OutOfMemoryError) or name.startswith(COMPILED)
        if not lacking or name in (BASELINE, COPY):
            raise
        log.warning("%s: left out (%s)", name, str(error).splitlines()[0])
        return False
    return True


def _preemptions() -> int:
    """How often threads of this process had to give up their core."""
    return 0 if resource is None else resource.getrusage(resource.RUSAGE_SELF).ru_nivcsw


def _waited() -> float:
    """Seconds that threads of this process were ready to run and had no core: a thread that wakes is not preempted.

    Always 0 where the system does not tell.
    """
    found = 0
    for path in _THREADS.glob("*/schedstat"):
        with contextlib.suppress(OSError):  # a thread that has ended
            found += int(path.read_text(encoding="ascii").split()[1])
    return found / 1e9


def _now(cuda: bool) -> Any:
    if not cuda:
        return time.perf_counter()
    event: Any = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
    event.record()
    return event


def _seconds(start: Any, end: Any) -> float:
    return float(end - start if isinstance(start, float) else start.elapsed_time(end) / 1000)
