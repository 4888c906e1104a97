"""Signals to whole processes: a graceful end within a step, code 75, status `preempted`, and no process left behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from runs import status
from tiny import TINY

from medcalib.engine.checkpoint import Checkpoints
from medcalib.engine.signals import Stop, listening
from medcalib.errors import PreemptedError

LONG = (*TINY, "train.epochs=100000", "train.validate_every=100000", "train.device=cpu", "train.rank_timeout_s=30")
TORCHRUN = ("-m", "torch.distributed.run", "--nproc_per_node=2", "-m", "medcalib")


@contextmanager
def training(phantom: Path, run: Path, *overrides: str, start: tuple[str, ...] = ("-m", "medcalib")) -> Iterator[Any]:
    """A process that trains, and has done so for an epoch."""
    sets = [f"--set={override}" for override in (*LONG, *overrides)]
    command = [sys.executable, *start, "train", "phantom", "--data", str(phantom), "--out", str(run), *sets]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, start_new_session=True, env=environment)
    try:
        wait_for((run / "manifest.json").exists, process)
        yield process
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.communicate()


def wait_for(happened: Any, process: Any) -> None:
    while not happened():
        assert process.poll() is None, process.communicate()[1]
        time.sleep(0.02)


def children_of(pid: int) -> list[int]:
    """Processes that it started, and those they started."""
    found = [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    return found + [grandchild for child in found for grandchild in children_of(child)]


def alive(pid: int) -> bool:
    """Whether it still runs; one that nobody has waited for does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def assert_all_end(pids: list[int]) -> None:
    """Soon; a loader worker looks for its parent every few seconds."""
    deadline = time.monotonic() + 30
    while any(map(alive, pids)) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert [pid for pid in pids if alive(pid)] == []


@pytest.mark.fault(62)
@pytest.mark.parametrize("name", ["SIGTERM", "SIGUSR1", "SIGINT"])
def test_a_signal_to_the_whole_group_ends_gracefully(phantom: Path, tmp_path: Path, name: str) -> None:
    """Loader workers hear it too, as they do from a terminal, and go on until the step is done."""
    run = tmp_path / "run"
    with training(
        phantom, run, "train.workers=2", "train.steps_per_epoch=100000", "train.checkpoint_steps=1"
    ) as process:
        workers = children_of(process.pid)
        assert len(workers) >= 2
        os.killpg(process.pid, getattr(signal, name))
        _, told = process.communicate(timeout=120)
    assert process.returncode == 75, told
    assert f"{name}: stopped after step" in told
    assert "Traceback" not in told
    assert status(run) == "preempted"
    entry = Checkpoints(run).load_newest()[1]
    assert f"after step {entry['step']} of epoch 1;" in told
    assert_all_end(workers)


@pytest.mark.fault(62)
def test_a_second_ctrl_c_ends_at_once(phantom: Path, tmp_path: Path) -> None:
    """Though the step never ends."""
    run = tmp_path / "run"
    endless = "import medcalib.engine.train as t, time; from pathlib import Path; from medcalib.cli import main\n"
    endless += f"def step(*a):\n Path({str(run)!r}, 'manifest.json').touch()\n while True: time.sleep(0.01)\n"
    endless += "t._step = step; main()"
    with training(phantom, run, "train.workers=2", start=("-c", endless)) as process:
        workers = children_of(process.pid)
        assert len(workers) >= 2
        process.send_signal(signal.SIGINT)
        with pytest.raises(subprocess.TimeoutExpired):
            process.wait(0.5)
        process.send_signal(signal.SIGINT)
        _, told = process.communicate(timeout=60)
    assert process.returncode == 130, told
    assert told.endswith("interrupted\n")
    assert status(run) == "interrupted"
    assert_all_end(workers)


@pytest.mark.fault(57)
def test_a_killed_training_leaves_no_worker(phantom: Path, tmp_path: Path) -> None:
    with training(phantom, tmp_path / "run", "train.workers=2") as process:
        workers = children_of(process.pid)
        assert len(workers) >= 2
        process.kill()
        assert_all_end(workers)
    assert status(tmp_path / "run") == "running"  # nobody was left to write


def ranks_of(process: Any) -> list[int]:
    return [int(p) for p in Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()]


@pytest.mark.fault(62)
def test_sigterm_to_torchrun_preempts_all_ranks(phantom: Path, tmp_path: Path) -> None:
    """torchrun itself ends with 1 then: the status says what happened."""
    run = tmp_path / "run"
    with training(phantom, run, start=TORCHRUN) as process:
        family = children_of(process.pid)
        process.terminate()
        _, told = process.communicate(timeout=120)
    assert process.returncode != 0
    assert told.count("SIGTERM: stopped after step") == 2, told
    assert status(run) == "preempted"
    assert_all_end(family)


@pytest.mark.fault(63)
@pytest.mark.parametrize("killed", [0, 1])
def test_a_killed_rank_ends_the_others_with_a_readable_error(phantom: Path, tmp_path: Path, killed: int) -> None:
    run = tmp_path / "run"
    with training(phantom, run, start=TORCHRUN) as process:
        family = children_of(process.pid)
        os.kill(rank_process(process, killed), signal.SIGKILL)
        _, told = process.communicate(timeout=120)
    assert process.returncode not in (0, 75)
    assert f"error: rank {1 - killed} of 2 waited in vain: another rank has ended, or hangs" in told
    assert status(run) == "failed"
    assert Checkpoints(run).load_last()["ranks"] == 2
    assert_all_end(family)


def rank_process(process: Any, rank: int) -> int:
    """By the environment that torchrun gave it."""
    for pid in ranks_of(process):
        if f"\0RANK={rank}\0" in Path(f"/proc/{pid}/environ").read_text():
            return pid
    raise AssertionError(f"no rank {rank}")


@pytest.mark.fault(63)
@pytest.mark.slow
def test_a_rank_that_hangs_is_waited_for_no_longer_than_the_config_says(phantom: Path, tmp_path: Path) -> None:
    """Slow: torchrun gives the rank that hangs 30 seconds to end."""
    run = tmp_path / "run"
    with training(phantom, run, "train.rank_timeout_s=5", start=TORCHRUN) as process:
        family = children_of(process.pid)
        os.kill(rank_process(process, 1), signal.SIGSTOP)
        _, told = process.communicate(timeout=200)
    assert "error: rank 0 of 2 waited in vain" in told
    assert status(run) == "failed"
    assert_all_end(family)


@pytest.mark.fault(62)
def test_before_the_first_step_there_is_nothing_to_save() -> None:
    with listening() as stop:
        with pytest.raises(PreemptedError, match="SIGTERM before the first step"):
            os.kill(os.getpid(), signal.SIGTERM)
        assert stop.agreed()
    with listening(), pytest.raises(KeyboardInterrupt):
        os.kill(os.getpid(), signal.SIGINT)


def test_handlers_are_put_back() -> None:
    names = (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT)
    before = [signal.getsignal(name) for name in names]
    with listening() as stop:
        stop.stepping = True
        os.kill(os.getpid(), signal.SIGUSR1)
        os.kill(os.getpid(), signal.SIGTERM)
        assert stop.signal == "SIGUSR1"
    assert [signal.getsignal(name) for name in names] == before


def test_another_thread_than_the_main_one_hears_nothing() -> None:
    seen: list[Stop] = []

    def inside() -> None:
        with listening() as stop:
            seen.append(stop)

    thread = threading.Thread(target=inside)
    thread.start()
    thread.join()
    assert seen[0].signal is None
