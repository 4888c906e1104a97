"""What tests of stopped, killed and continued trainings share."""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
from collections.abc import Callable
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import pytest
import torch

from medcalib.config import RunConfig
from medcalib.engine import train as module
from medcalib.engine.checkpoint import Checkpoints


def status(run: Path) -> str:
    """How the run ended."""
    return json.loads((run / "status.json").read_text())["status"]


def lines(run: Path) -> list[dict[str, Any]]:
    """metrics.jsonl without what the clock decides."""
    read = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [{key: value for key, value in line.items() if key != "seconds"} for line in read]


def temporary_files(run: Path) -> list[Path]:
    """What `atomic` has not moved to its place."""
    return [*run.glob(".tmp-*"), *run.glob("*/.tmp-*")]


def same(a: Any, b: Any) -> bool:
    """Equal to the last bit, through dictionaries and lists; seconds aside."""
    if isinstance(a, torch.Tensor):
        return a.dtype == b.dtype and torch.equal(a, b)
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[key], b[key]) for key in a if key != "seconds")
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(map(same, a, b))
    return bool(a == b)


def assert_same_runs(a: Path, b: Path) -> None:
    """Every part of the last checkpoints, of all ranks, and every line of the metrics."""
    first, second = Checkpoints(a).load_last(), Checkpoints(b).load_last()
    assert first.keys() == second.keys()
    assert [key for key in first if not same(first[key], second[key])] == []
    assert lines(a) == lines(b)


def signal_after(steps: int, patch: pytest.MonkeyPatch, number: int = signal.SIGUSR1, name: str = "_step") -> None:
    """Send this process a signal while it takes the step after so many."""
    original: Callable[..., Any] = getattr(module, name)
    left = [steps]

    def signaled(*args: Any) -> Any:
        left[0] -= 1
        if left[0] == -1:
            os.kill(os.getpid(), number)
        return original(*args)

    patch.setattr(module, name, signaled)


def forked(target: Callable[..., None], *arguments: Any) -> BaseProcess:
    """A process at work, to be killed. It is forked from one that holds all imports, and starts in no time."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["medcalib.engine.train"])
    process = context.Process(target=target, args=arguments)
    process.start()
    return process


def train_interrupted(steps: int, config: RunConfig, run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Train until Ctrl-C would come in the step after so many."""
    original, left = module._step, [steps]

    def interrupted(*args: Any) -> Any:
        left[0] -= 1
        if left[0] < 0:
            raise KeyboardInterrupt
        return original(*args)

    with monkeypatch.context() as patch:
        patch.setattr(module, "_step", interrupted)
        with pytest.raises(KeyboardInterrupt):
            module.train(config, run)
