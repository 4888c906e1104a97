"""Every job is done once, in any number of processes; a killed worker costs its job alone."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from multiprocessing import active_children
from pathlib import Path

import pytest

from medcalib.engine.pool import unordered


def squared(job: int) -> int:
    return job * job


def deadly(job: int) -> int:
    """Killed by job 3, as the kernel kills for memory."""
    if job == 3:
        os.kill(os.getpid(), signal.SIGKILL)
    return job


def once(job: tuple[str, int]) -> int:
    """Killed at the first try of job 2 only."""
    folder, number = job
    mark = Path(folder) / str(number)
    tried_before = mark.exists()
    mark.touch()
    if number == 2 and not tried_before:
        os.kill(os.getpid(), signal.SIGKILL)
    return number


def failing(job: int) -> int:
    raise OSError(28, "No space left on device")


def lost(job: object) -> int:
    return -1


@pytest.mark.parametrize("workers", [1, 2])
def test_every_job_has_one_result(workers: int) -> None:
    assert sorted(unordered(squared, range(7), workers, died=lost)) == [k * k for k in range(7)]
    assert list(unordered(squared, [], workers, died=lost)) == []


def test_a_worker_that_is_killed_again_loses_its_own_job_only() -> None:
    assert sorted(unordered(deadly, range(6), 2, died=lost)) == [-1, 0, 1, 2, 4, 5]


def test_a_job_is_tried_once_more_when_its_worker_was_killed(tmp_path: Path) -> None:
    jobs = [(str(tmp_path), k) for k in range(4)]
    assert sorted(unordered(once, jobs, 2, died=lost)) == [0, 1, 2, 3]


def test_an_error_that_is_no_fault_of_the_job_ends_everything() -> None:
    with pytest.raises(OSError, match="No space left"):
        list(unordered(failing, range(4), 2, died=lost))
    assert not active_children()


def test_processes_end_when_the_caller_has_seen_enough() -> None:
    results = unordered(squared, range(100), 2, died=lost)
    next(results)
    results.close()
    assert not active_children()


def test_a_script_without_a_main_guard_is_told_so(tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text("from medcalib.engine.pool import unordered\nprint(list(unordered(abs, [1, 2], 1, died=abs)))\n")
    found = subprocess.run([sys.executable, script], capture_output=True, text=True, timeout=300, check=False)
    assert found.returncode == 1
    assert 'use workers=1, or call this under `if __name__ == "__main__":`' in found.stderr
