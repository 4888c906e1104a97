"""No case scored, or one: said with code 4 or without an interval; never a table of NaN, never a warning of numpy."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from flat import write_flat
from typer.testing import CliRunner

from medcalib.cli import app

pytestmark = pytest.mark.filterwarnings("error::RuntimeWarning")


def run(*arguments: object) -> tuple[int, str]:
    """Exit code and all that was said."""
    found = CliRunner().invoke(app, [str(argument) for argument in arguments])
    assert found.exception is None or isinstance(found.exception, SystemExit), found.exception
    return found.exit_code, found.output


@pytest.fixture(scope="module")
def none(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folders of two cases that both are refused."""
    folder = tmp_path_factory.mktemp("none")
    write_flat(folder, 3)
    for path in (folder / "predictions").glob("*.nii.gz"):
        path.write_bytes(b"")
    return folder


def pair(folder: Path) -> list[object]:
    return ["--predictions", folder / "predictions", "--labels", folder / "labels"]


@pytest.mark.fault(73)
def test_no_case_scored_is_said_by_every_command(none: Path, tmp_path: Path) -> None:
    for what in (["score", *pair(none), "--out", tmp_path / "s"], ["merge", tmp_path / "s", "--out", tmp_path / "m"]):
        code, said = run(*what)
        assert code == 4
        assert said.startswith("scored 0 of 3 cases\n")
        assert "nan" not in said.lower().replace("name", "")
    stored = json.loads((tmp_path / "m" / "scores.json").read_text())
    assert (stored["pooled"], stored["mean"], stored["n_scored"]) == ({}, {}, 0)
    pytest.importorskip("matplotlib")
    code, said = run("report", tmp_path / "m", "--out", tmp_path / "r.html")
    assert code == 4
    assert f"no case was scored in {tmp_path / 'm'}" in said
    page = (tmp_path / "r.html").read_text(encoding="utf-8")
    assert "No case was scored" in page
    assert ">nan<" not in page.lower()


@pytest.mark.fault(73)
def test_nothing_to_fit_is_refused(none: Path, tmp_path: Path) -> None:
    code, said = run("calibrate", *pair(none), "--out", tmp_path / "t.safetensors")
    assert code in (2, 3, 4)
    assert "error: " in said
    assert not (tmp_path / "t.safetensors").exists()


@pytest.mark.fault(73)
def test_one_case_has_numbers_and_no_interval(tmp_path: Path) -> None:
    write_flat(tmp_path, 3)
    for path in [*tmp_path.glob("*/case_1.*"), *tmp_path.glob("*/case_2.*")]:
        path.unlink()
    code, said = run("score", *pair(tmp_path), "--out", tmp_path / "s")
    assert code == 0
    stored = json.loads((tmp_path / "s" / "scores.json").read_text())
    assert stored["pooled"]["all"]["ece"] > 0
    assert (stored["pooled"]["all"]["ece_low"], stored["mean"]["all"]["ece"]["low"]) == (None, None)
    assert "nan" not in said.lower()
    pytest.importorskip("matplotlib")
    assert run("report", tmp_path / "s", "--out", tmp_path / "r.html")[0] == 0
    assert "no interval: 1 patient, 3 are needed" in (tmp_path / "r.html").read_text(encoding="utf-8")
