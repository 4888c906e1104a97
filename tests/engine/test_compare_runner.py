"""Cells as processes: crashes, signals, slots, shards and locks. The processes here are small stand-ins."""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
import time
from pathlib import Path

import pytest

from medcalib.config import RunConfig
from medcalib.engine.compare import cell as cell_module
from medcalib.engine.compare import runner
from medcalib.engine.compare.folder import CellFolder, CellId
from medcalib.engine.compare.plan import Plan, shared
from medcalib.engine.compare.runner import Options, run_cells
from medcalib.engine.shards import Shard
from medcalib.errors import PreemptedError

DONE = """
import json, os, pathlib, sys
folder = pathlib.Path(sys.argv[1], "cells", sys.argv[2], "seed" + sys.argv[3])
(folder / "scores").mkdir(parents=True)
(folder / "scores" / "scores.json").write_text('{"pooled": {}, "mean": {}, "n_scored": 1, "n_expected": 1}')
state = {"state": "done", "scores": {"none": "scores"}, "device": sys.argv[4], "seconds": {},
         "threads": os.environ["OMP_NUM_THREADS"]}
(folder / "cell.json").write_text(json.dumps(state))
"""
ENDS = "import signal, sys; signal.signal(signal.SIGTERM, lambda *_: sys.exit(75)); print('up', flush=True)\n"
SLEEPS = ENDS + "import time; time.sleep(60)"


@pytest.fixture
def plan(tiny: RunConfig) -> Plan:
    return Plan(shared(tiny), {"a": {"name": "ce"}, "b": {"name": "mbls"}}, {}, [0, 1], [], "test", "best", "a")


def stand_in(patch: pytest.MonkeyPatch, default: str = DONE, **scripts: str) -> None:
    """Let cells be these scripts, by `<label><seed>`."""

    def command(out: Path, cell: CellId, device: str, **options: object) -> list[str]:
        script = scripts.get(f"{cell.label}{cell.seed}", default)
        return [sys.executable, "-c", script, str(out), cell.label, str(cell.seed), device]

    patch.setattr(runner, "command", command)


def state(out: Path, label: str, seed: int) -> dict[str, object]:
    return json.loads((out / "cells" / label / f"seed{seed}" / "cell.json").read_text())


def test_a_crash_and_a_kill_leave_the_others_alone(plan: Plan, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    kill = "import os; print('last words', flush=True); os.kill(os.getpid(), 9)"
    stand_in(monkeypatch, a0="import sys; print('no memory', flush=True); sys.exit(9)", b1=kill)
    found = run_cells(plan, tmp_path, Options(["cpu"], jobs=2))
    assert sorted(found.done) == [("a", 1), ("b", 0)]
    assert (
        found.failed[CellId("a", 0)]
        == "its process ended with code 9\n--- " + found.failed[CellId("a", 0)].partition("--- ")[2]
    )
    assert found.failed[CellId("a", 0)].endswith("\nno memory")
    assert "SIGKILL (mostly for want of memory)" in found.failed[CellId("b", 1)]
    assert found.failed[CellId("b", 1)].endswith("\nlast words")
    assert state(tmp_path, "b", 1)["state"] == "failed"
    stand_in(monkeypatch)
    again = run_cells(plan, tmp_path, Options(["cpu"]))  # failed cells are tried again, done ones kept
    assert sorted(again.done) == sorted(plan.cells())
    logs = {cell: CellFolder(tmp_path, cell).log.read_text().count("--- ") for cell in plan.cells()}
    assert logs == {("a", 0): 2, ("b", 0): 1, ("a", 1): 1, ("b", 1): 2}


def test_cells_are_spread_over_devices_and_share_the_cores(
    plan: Plan, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stand_in(monkeypatch)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(9)))
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    run_cells(plan, tmp_path, Options(["cuda:0", "cuda:1"], jobs=2))
    assert [state(tmp_path, *cell)["device"] for cell in plan.cells()] == ["cuda:0", "cuda:1"] * 2
    assert {state(tmp_path, *cell)["threads"] for cell in plan.cells()} == {"2"}


def test_shards_are_disjoint_and_complete(plan: Plan, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stand_in(monkeypatch)
    parts = [run_cells(plan, tmp_path, Options(["cpu"], shard=Shard(i, 3))).done for i in range(3)]
    assert [len(part) for part in parts] == [2, 1, 1]
    assert sorted(cell for part in parts for cell in part) == sorted(plan.cells())


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_the_cells_and_the_call_goes_on_later(
    plan: Plan, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    stand_in(monkeypatch, SLEEPS)
    logs = [CellFolder(tmp_path, cell).log for cell in plan.cells()[:2]]

    def interrupt() -> None:
        while not all(log.is_file() and "up" in log.read_text() for log in logs):
            time.sleep(0.02)
        os.kill(os.getpid(), number)

    threading.Thread(target=interrupt, daemon=True).start()
    began = time.monotonic()
    with pytest.raises(PreemptedError, match="4 cells left"):
        run_cells(plan, tmp_path, Options(["cpu"], jobs=2))
    assert time.monotonic() - began < 50  # they did not sleep to the end
    assert not CellFolder(tmp_path, CellId("a", 1)).log.exists()
    stand_in(monkeypatch)
    assert len(run_cells(plan, tmp_path, Options(["cpu"])).done) == 4


def test_a_cell_that_another_process_works_on_is_waited_for(
    plan: Plan, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    stand_in(monkeypatch)
    monkeypatch.setattr(runner, "WAIT_S", 0.02)
    folder = CellFolder(tmp_path, CellId("a", 0))
    folder.path.mkdir(parents=True)
    folder.lock.write_text(json.dumps({"host": "elsewhere", "pid": 1, "token": ""}))

    def let_go() -> None:
        while not (tmp_path / "cells" / "b" / "seed1" / "cell.json").exists():
            time.sleep(0.02)
        folder.lock.unlink()

    threading.Thread(target=let_go, daemon=True).start()
    with caplog.at_level("INFO"):
        found = run_cells(plan, tmp_path, Options(["cpu"]))
    assert found.done[-1] == ("a", 0)
    assert caplog.text.count("a seed 0: waiting for process 1 on elsewhere") == 1


def test_a_busy_cell_is_tried_again_after_the_others(
    plan: Plan, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    once = f"import os, sys\nif not os.path.exists('{tmp_path}/x'): open('{tmp_path}/x', 'w'); sys.exit(73)\n"
    stand_in(monkeypatch, a0=once + DONE)
    assert run_cells(plan, tmp_path, Options(["cpu"])).done == [*plan.cells()[1:], ("a", 0)]


def test_a_cell_that_was_told_to_end_ends_the_call(plan: Plan, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stand_in(monkeypatch, b1="import sys; sys.exit(75)")
    with pytest.raises(PreemptedError, match="1 cells left"):
        run_cells(plan, tmp_path, Options(["cpu"]))
    assert [CellFolder(tmp_path, cell).is_done([]) for cell in plan.cells()] == [True, True, True, False]


def test_a_cell_process_refuses_a_cell_that_is_locked(tmp_path: Path) -> None:
    folder = CellFolder(tmp_path, CellId("a", 0))
    folder.path.mkdir(parents=True)
    folder.lock.write_text(json.dumps({"host": "elsewhere", "pid": 1, "token": ""}))
    words = cell_module.command(tmp_path, folder.cell, "cpu", root=None, keep=False, stale=None)
    process = runner.subprocess.run(words, stdin=runner.subprocess.DEVNULL, capture_output=True, text=True, timeout=100)
    assert process.returncode == cell_module.BUSY
    assert "held by process 1 on elsewhere" in process.stderr
    assert not (folder.path / "cell.json").exists()
