"""Locks of cells: one owner at a time, and what becomes of those that owners leave behind."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from medcalib.engine.compare import lock
from medcalib.engine.compare.lock import BusyError, Watch, held, is_abandoned, read


def content(pid: int, host: str | None = None) -> str:
    return json.dumps({"host": host or lock._host(), "pid": pid, "token": "x"})


def dead() -> int:
    """The number of a process that is gone."""
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    return process.pid


@pytest.mark.fault(77)
def test_one_owner_at_a_time(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    with held(path):
        assert json.loads(read(path) or "")["pid"] == os.getpid()
        with pytest.raises(BusyError, match=f"process {os.getpid()} on "), held(path):
            pass
        assert path.exists()
    assert not path.exists()


def test_a_lock_of_a_dead_process_of_this_machine_is_taken_over(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    path.write_text(content(dead()))
    assert is_abandoned(path.read_text())
    with held(path):
        assert json.loads(read(path) or "")["pid"] == os.getpid()
    assert list(tmp_path.iterdir()) == []


def test_a_lock_of_another_machine_is_not_unless_it_stays_silent(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, watch = tmp_path / "lock", Watch()
    path.write_text(content(dead(), "elsewhere"))
    with pytest.raises(BusyError), held(path):
        pass
    assert watch.stale(path) is None
    monkeypatch.setattr(lock, "SILENT_S", -1.0)
    stale = watch.stale(path)
    assert stale == path.read_text()
    os.utime(path, ns=(1, 1))  # a sign of life
    assert watch.stale(path) is None
    with held(path, stale):
        assert read(path) != stale


def test_a_lock_that_was_taken_over_is_not_removed_by_its_former_owner(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    with held(path):
        path.write_text(content(1, "elsewhere"))
    assert path.read_text() == content(1, "elsewhere")


def test_removing_a_stale_lock_puts_back_what_another_has_just_made(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    path.write_text(content(1, "elsewhere"))
    lock._remove(path, content(2, "elsewhere"))
    assert [entry.read_text() for entry in tmp_path.iterdir()] == [content(1, "elsewhere")]


def test_half_written_locks_are_held(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    path.write_text("")
    with pytest.raises(BusyError), held(path):
        pass
