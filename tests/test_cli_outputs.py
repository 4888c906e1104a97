"""Outputs that cannot be written, or belong to something else, are refused before any work; HOME is not needed."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import NoReturn

import pytest
from flat import write_flat
from tiny import SHORTEST
from typer.testing import CliRunner

from medcalib.cli import app
from medcalib.data.phantom import write_dataset

WORK = {
    "train": "medcalib.engine.train._run",
    "predict": "medcalib.engine.predictor.Predictor.probs",
    "score": "medcalib.engine.evaluate.score_pair",
    "maps": "medcalib.report.maps.write.read_pair",
    "calibrate": "medcalib.engine.calibrate.read_pair",
    "calibrate run": "medcalib.engine.predictor.Predictor.logits",
    "apply": "medcalib.engine.apply.read_alone",
    "report": "medcalib.report.html.read_methods",
    "compare": "medcalib.engine.compare.runner.command",
}
SETS = [part for option in SHORTEST for part in ("--set", option)]


def run(*arguments: object) -> tuple[int, str]:
    """Exit code and standard error."""
    found = CliRunner().invoke(app, [str(argument) for argument in arguments])
    assert found.exception is None or isinstance(found.exception, SystemExit), repr(found.exception)
    return found.exit_code, found.stderr


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`data`, `run`, `predictions`, `labels`, `scores` and `fit.safetensors`, each of a few small cases."""
    folder = tmp_path_factory.mktemp("made")
    write_dataset("acdc", 4, 0, folder / "data", shape=(28, 28, 6))
    write_flat(folder, 4, (8, 8, 4))
    assert run(*command("train", folder, folder / "run"))[0] == 0
    for name, out in (("score", folder / "scores"), ("calibrate", folder / "fit.safetensors")):
        assert run(*command(name, folder, out))[0] == 4  # one of the cases is damaged
    return folder


def command(name: str, made: Path, out: Path) -> list[object]:
    """A command that would succeed but for its output."""
    pair = ["--predictions", made / "predictions", "--labels", made / "labels", "--out", out]
    return {
        "train": ["train", "phantom", "--data", made / "data", "--out", out, *SETS],
        "predict": ["predict", made / "run", "--out", out],
        "score": ["score", *pair],
        "maps": ["maps", *pair],
        "calibrate": ["calibrate", *pair, "--folds", 2],
        "calibrate run": ["calibrate", made / "run", "--out", out],
        "apply": ["apply", made / "fit.safetensors", "--predictions", made / "predictions", "--out", out],
        "report": ["report", made / "scores", "--out", out],
        "compare": ["compare", "phantom", "--data", made / "data", "--losses", "ce", "--out", out, *SETS],
    }[name]


@pytest.fixture
def no_work(monkeypatch: pytest.MonkeyPatch) -> None:
    """What every command does first of its work raises, which is no exit code."""

    def worked(*_: object, **__: object) -> NoReturn:
        raise AssertionError("work was begun")

    for target in WORK.values():
        monkeypatch.setattr(target, worked)


@pytest.mark.usefixtures("no_work")
@pytest.mark.fault(14)
@pytest.mark.parametrize("name", WORK)
@pytest.mark.parametrize("place", ["below a file", "a file", "/proc", "/dev/null"])
def test_an_output_that_cannot_be_written_is_refused_before_any_work(
    made: Path, tmp_path: Path, name: str, place: str
) -> None:
    """Root may write everywhere but here. A file of another kind is not replaced by a folder or by another file."""
    (tmp_path / "file").write_text("notes of mine")
    out = {
        "below a file": tmp_path / "file" / "out",
        "a file": tmp_path / "file",
        "/proc": Path("/proc/nowhere/out"),
        "/dev/null": Path("/dev/null/out"),
    }[place]
    code, errors = run(*command(name, made, out))
    assert code == 2
    assert errors.startswith("error: ")
    assert errors.count("\n") == 1
    assert str(out if place == "a file" else out.parent) in errors
    assert [path.name for path in tmp_path.iterdir()] == ["file"]
    assert (tmp_path / "file").read_text() == "notes of mine"


@pytest.mark.usefixtures("no_work")
@pytest.mark.fault(14)
@pytest.mark.parametrize(
    ("name", "out", "words"),
    [
        ("train", "run", "already holds a run; continue it with --resume, or choose another --out"),
        ("score", "predictions", "is a folder that is read from"),
        ("maps", "labels", "is a folder that is read from"),
        ("apply", "predictions", "is a folder that is read from"),
        ("calibrate", "run/config.yaml", "exists and is no calibrator"),
        ("calibrate run", "run/config.yaml", "exists and is no calibrator"),
        ("calibrate", "run", "is a folder"),
        ("report", "predictions/case_0.nii.gz", "exists and is no HTML page"),
        ("report", "run", "is a folder"),
    ],
)
def test_what_lies_there_already_is_never_written_over(made: Path, name: str, out: str, words: str) -> None:
    def contents() -> dict[str, bytes]:
        return {
            str(path): path.read_bytes() for path in sorted((made / out.split("/")[0]).rglob("*")) if path.is_file()
        }

    before = contents()
    code, errors = run(*command(name, made, made / out))
    assert (code, words in errors) == (2, True), errors
    assert contents() == before


@pytest.mark.fault(14)
def test_predictions_of_another_split_are_not_mixed(made: Path, tmp_path: Path) -> None:
    assert run(*command("predict", made, tmp_path / "pred"))[0] == 0
    before = (tmp_path / "pred" / "predictions.json").read_bytes()
    code, errors = run(*command("predict", made, tmp_path / "pred"), "--split", "val")
    assert (code, "holds predictions of another run or split" in errors) == (2, True)
    assert (tmp_path / "pred" / "predictions.json").read_bytes() == before


@pytest.mark.fault(14)
def test_what_a_command_wrote_itself_is_renewed(made: Path, tmp_path: Path) -> None:
    for name, out in (("calibrate", tmp_path / "t.safetensors"), ("report", tmp_path / "r.html")):
        codes = [run(*command(name, made, out))[0] for _ in range(2)]
        assert codes[0] == codes[1] != 2


HOMELESS = """
import json, sys
from typer.testing import CliRunner
from medcalib.cli import app
print(json.dumps([CliRunner().invoke(app, arguments).exit_code for arguments in json.loads(sys.argv[1])]))
"""


@pytest.mark.fault(14)
@pytest.mark.parametrize("home", [pytest.param(None, marks=pytest.mark.slow), "/dev/null/home"])
def test_no_command_needs_a_home(made: Path, tmp_path: Path, home: str | None) -> None:
    """Without one, matplotlib and torch make do with a temporary folder."""
    names = ("predict", "score", "calibrate", "report") if home else ("train", "report")
    outs = {"report": tmp_path / "r.html", "calibrate": tmp_path / "t.safetensors"}
    lines = [[str(part) for part in command(name, made, outs.get(name, tmp_path / name))] for name in names]
    env = {k: v for k, v in os.environ.items() if k not in ("HOME", "MPLCONFIGDIR") and not k.startswith("XDG_")}
    done = subprocess.run(
        [sys.executable, "-c", HOMELESS, json.dumps(lines)],
        env=env | ({"HOME": home} if home else {}), capture_output=True, text=True, check=True, timeout=300,
    )  # fmt: skip
    assert json.loads(done.stdout.splitlines()[-1]) == ([0, 4, 4, 0] if home else [0, 0])
    assert "Traceback" not in done.stderr


def test_a_full_disk_names_the_file_and_leaves_what_was_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = tmp_path / "schema.json"
    out.write_text("before")

    def full(descriptor: int) -> NoReturn:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    code, errors = run("schema", "--out", out)
    assert code == 2
    assert errors.startswith(f"error: {out}: No space left on device; free space there or choose another --out")
    assert [file.read_text() for file in tmp_path.iterdir()] == ["before"]
