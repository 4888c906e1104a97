"""`medcalib compare` as a user meets it. The tables have tests of their own and are stood in for here."""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
import time
import types
from pathlib import Path

import pytest
from tiny import SHORTEST
from typer.testing import CliRunner

from medcalib.cli import app
from medcalib.data.phantom import write_dataset
from medcalib.engine.compare import runner

TINY = (*SHORTEST, "score.regions=[all, pred_foreground]", "score.distances=false")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_dataset("acdc", 6, 0, tmp_path_factory.mktemp("phantom") / "data", shape=(28, 28, 6))


@pytest.fixture(autouse=True)
def _tables(monkeypatch: pytest.MonkeyPatch) -> None:
    stand_in = types.ModuleType("medcalib.report.comparison")
    stand_in.write_comparison = lambda out: {"cells": len(list(out.glob("cells/*/*/cell.json")))}
    stand_in.comparison_text = lambda results: f"a table of {results['cells']} cells"
    monkeypatch.setitem(sys.modules, "medcalib.report.comparison", stand_in)


def run(*arguments: object) -> tuple[int, str, str]:
    """Exit code, standard output, standard error."""
    found = CliRunner().invoke(app, ["compare", *map(str, arguments)])
    return found.exit_code, found.stdout, found.stderr


def options(data: Path, out: Path) -> list[object]:
    return ["phantom", "--data", data, "--out", out, *(part for option in TINY for part in ("--set", option))]


def test_a_comparison_goes_on_and_grows(data: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    code, text, errors = run(*options(data, tmp_path / "out"), "--losses", "ce", "--calibrators", "temperature")
    assert (code, errors) == (0, "")
    assert text == f"a table of 1 cells\nwrote {tmp_path / 'out' / 'index.html'}\n"
    (line,) = [message for message in caplog.messages if message.startswith("ce seed 0: ")]
    assert all(part in line for part in ("Dice 0.", "ECE all 0.", "ECE pred_foreground 0.", " s  [1/1]"))
    cell = tmp_path / "out" / "cells" / "ce" / "seed0"
    found = json.loads((cell / "cell.json").read_text())
    assert (found["state"], found["method"], found["seed"], found["error"]) == ("done", "ce", 0, None)
    assert found["scores"] == {"none": "scores", "temperature": "scores_temperature"}
    assert not (cell / "lock").exists()
    assert not (cell / "predictions").exists()
    before = (cell / "cell.json").stat().st_mtime_ns
    code, text, _ = run(*options(data, tmp_path / "out"), "--losses", "ce,mbls", "--json")
    assert (code, json.loads(text)) == (0, {"cells": 2})
    assert (cell / "cell.json").stat().st_mtime_ns == before
    assert json.loads((tmp_path / "out" / "cells" / "mbls" / "seed0" / "cell.json").read_text())["scores"].keys() == {
        "none",
        "temperature",
    }
    code, text, _ = run("--out", tmp_path / "out", "--table")
    assert (code, text.splitlines()[0]) == (0, "a table of 2 cells")


def test_a_cell_that_fails_is_told_and_the_code_is_4(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runner, "command", lambda *_, **__: [sys.executable, "-c", "import os; os.abort()"])
    code, text, errors = run(*options(data, tmp_path / "out"), "--losses", "ce")
    assert (code, text.splitlines()[0]) == (4, "a table of 1 cells")
    assert "failed: ce seed 0: its process was ended by SIGABRT" in errors


def test_a_signal_ends_it_with_code_75(data: Path, tmp_path: Path) -> None:
    """The cell is a real one: it ends wherever it is, and a second call finishes it."""

    def interrupt() -> None:
        while not (tmp_path / "out" / "cells" / "ce" / "seed0" / "cell.json").exists():
            time.sleep(0.02)
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=interrupt, daemon=True).start()
    code, _, errors = run(*options(data, tmp_path / "out"), "--losses", "ce")
    assert code == 75
    assert "stopped with 1 cells left" in errors
    cell = tmp_path / "out" / "cells" / "ce" / "seed0"
    assert json.loads((cell / "cell.json").read_text())["state"] == "running"
    assert not (cell / "lock").exists()
    assert run(*options(data, tmp_path / "out"))[0] == 0


@pytest.mark.parametrize(
    ("given", "told"),
    [
        (["--losses", "ce", "--set", "train.seed=1"], "a comparison sets it for each cell"),
        (["--losses", "ce", "--set", "loss.margin=1"], "a comparison sets it for each cell"),
        (["--losses", "ce", "--seeds", "0,x"], "expected whole numbers such as 0,1,2, got x"),
        (["--losses", "ce", "--shard", "2/2"], "there is no shard 2/2"),
        (["--losses", "ce", "--devices", "gpu"], "device 'gpu': expected auto"),
        (["--losses", "cee"], "--losses cee"),
        ([], "nothing to compare"),
    ],
)
def test_mistakes_are_told_before_anything_is_written(data: Path, tmp_path: Path, given: list[str], told: str) -> None:
    code, _, errors = run(*options(data, tmp_path / "out"), *given)
    assert code == 2
    assert told in errors
    assert not (tmp_path / "out").exists()


def test_bad_data_is_code_3_and_a_config_is_needed(tmp_path: Path) -> None:
    code, _, errors = run(*options(tmp_path / "gone", tmp_path / "out"), "--losses", "ce")
    assert code == 3, errors
    code, _, errors = run("--out", tmp_path / "out")
    assert (code, "name a CONFIG" in errors) == (2, True)
