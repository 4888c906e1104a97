"""Missing extras end in one line with the fix; pipes that close, narrow and plain terminals end in no traceback."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from flat import write_flat
from typer.testing import CliRunner

from medcalib.cli import app
from medcalib.cli_support import echo_json

COMMANDS = sorted(str(found.name or found.callback.__name__) for found in app.registered_commands if found.callback)
MISSING = {"jinja2": ("jinja2",), "matplotlib": ("matplotlib", "matplotlib.figure", "matplotlib.pyplot")}


@pytest.fixture(scope="module")
def scores(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("extras")
    write_flat(folder, 3)
    pair = ["--predictions", str(folder / "predictions"), "--labels", str(folder / "labels")]
    assert CliRunner().invoke(app, ["score", *pair, "--out", str(folder / "scores")]).exit_code == 4
    return folder / "scores"


@pytest.mark.fault(74)
@pytest.mark.parametrize("package", MISSING)
@pytest.mark.parametrize("what", ["report", "compare", "demo"])
def test_without_an_extra_one_line_says_what_to_install_before_any_work(
    scores: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, package: str, what: str
) -> None:
    for module in MISSING[package]:
        monkeypatch.setitem(sys.modules, module, None)
    out = tmp_path / "out"
    words = {
        "report": ["report", str(scores), "--out", str(out)],
        "compare": ["compare", "phantom", "--data", str(tmp_path), "--losses", "ce", "--out", str(out)],
        "demo": ["demo", "--out", str(out)],
    }[what]
    found = CliRunner().invoke(app, words)
    assert found.exit_code == 2
    assert found.output == f'error: {package} is not installed; install it with: pip install "medcalib[report]"\n'
    assert not out.exists()


@pytest.mark.fault(75)
@pytest.mark.parametrize("command", COMMANDS)
def test_help_fits_twenty_columns(command: str) -> None:
    found = CliRunner().invoke(app, [command, "--help"], env={"COLUMNS": "20", "TERM": "dumb"})
    assert found.exit_code == 0, found.exception
    assert "Usage" in found.output


@pytest.mark.fault(75)
def test_json_stays_json_where_the_output_is_not_utf8(monkeypatch: pytest.MonkeyPatch) -> None:
    for encoding in ("ascii", "latin-1", "utf-8"):
        raw = io.BytesIO()
        monkeypatch.setattr("sys.stdout", io.TextIOWrapper(raw, encoding=encoding, errors="backslashreplace"))
        echo_json({"Größe": "\N{GREEK SMALL LETTER MU}"})
        sys.stdout.flush()
        assert json.loads(raw.getvalue()) == {"Größe": "\N{GREEK SMALL LETTER MU}"}


@pytest.mark.fault(75)
@pytest.mark.parametrize("words", [["losses"], ["schema"], ["datasets"], ["--help"], ["calibrators"], ["report", "{}"]])
def test_a_reader_that_leaves_is_no_error(words: list[str], scores: Path, tmp_path: Path) -> None:
    given = [word.format(scores) for word in words] + (["--out", str(tmp_path / "r")] if words[0] == "report" else [])
    read, write = os.pipe()
    os.close(read)  # nobody reads a byte
    plain = {"LC_ALL": "C", "PYTHONIOENCODING": "ascii", "COLUMNS": "20"}
    command = [sys.executable, "-m", "medcalib", *given]
    found = subprocess.run(command, stdout=write, stderr=subprocess.PIPE, env=os.environ | plain, check=False)
    os.close(write)
    assert b"Traceback" not in found.stderr
    assert b"Exception ignored" not in found.stderr
