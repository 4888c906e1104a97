"""Clock, locale, hash seed, workers, folder and umask of a process change no byte of what it writes."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from flat import write_flat
from helpers import REPOSITORY

CODE = """
import os, sys
from pathlib import Path
os.umask(int(sys.argv[4], 8))
from typer.testing import CliRunner
from medcalib.cli import app
folder, out, workers = Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3]
pair = ["--predictions", str(folder / "predictions"), "--labels", str(folder / "labels")]
for words in (
    ["score", *pair, "--out", str(out / "scores"), "--workers", workers],
    ["maps", *pair, "--out", str(out / "maps")],
    ["calibrate", *pair, "--folds", "2", "--out", str(out / "t.safetensors")],
    ["apply", str(out / "t.safetensors"), "--predictions", str(folder / "predictions"), "--out", str(out / "applied")],
    ["report", str(out / "scores"), "--maps", str(out / "maps"), "--out", str(out / "r.html")],
    ["phantom", "--layout", "acdc", "--cases", "2", "--out", str(out / "phantom")],
):
    found = CliRunner().invoke(app, words)
    assert found.exit_code in (0, 4), (words, found.output, found.exception)
"""
PLACES = {
    "plain": ({"TZ": "UTC", "LC_ALL": "C.UTF-8", "PYTHONHASHSEED": "0"}, "1", "022"),
    "other": ({"TZ": "Asia/Kolkata", "LC_ALL": "C", "PYTHONHASHSEED": "4711", "PYTHONUTF8": "0"}, "2", "077"),
}


@pytest.mark.slow
@pytest.mark.fault(78)
def test_surroundings_change_no_byte(tmp_path: Path, record_property: Callable[[str, object], None]) -> None:
    pytest.importorskip("matplotlib")
    write_flat(tmp_path, 6)
    written = {}
    for name, (environment, workers, umask) in PLACES.items():
        out = tmp_path / name / "out"
        cwd = REPOSITORY if name == "plain" else out.parent
        out.mkdir(parents=True)
        command = [sys.executable, "-c", CODE, tmp_path, out, workers, umask]
        env = os.environ | environment
        done = subprocess.run(command, cwd=cwd, env=env, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        written[name] = {str(p.relative_to(out)): p.read_bytes() for p in out.rglob("*") if p.is_file()}
    assert written["plain"].keys() == written["other"].keys()
    assert len(written["plain"]) > 40
    assert [path for path, raw in written["plain"].items() if written["other"][path] != raw] == []
    record_property("measured", f"{len(written['plain'])} files in two surroundings: no byte differs")
