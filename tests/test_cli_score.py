"""`medcalib score` and `medcalib merge` as a user meets them."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from flat import BAD, SCORES, UNPREDICTED, contents, write_flat
from typer.testing import CliRunner

from medcalib.cli import app


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`predictions`, `labels` and the `scores` of one run."""
    folder = tmp_path_factory.mktemp("flat")
    write_flat(folder, 6)
    assert run(*pair(folder), "--out", folder / "scores")[0] == 4
    return folder


def pair(folder: Path) -> list[object]:
    return ["score", "--predictions", folder / "predictions", "--labels", folder / "labels"]


def run(*arguments: object) -> tuple[int, str, str]:
    """Exit code, standard output, standard error."""
    found = CliRunner().invoke(app, [str(argument) for argument in arguments])
    return found.exit_code, found.stdout, found.stderr


def test_shards_and_their_merge_print_and_write_what_one_run_does(folder: Path, tmp_path: Path) -> None:
    for index in range(2):
        code, text, errors = run(*pair(folder), "--out", tmp_path / f"{index}", "--shard", f"{index}/2")
        assert code == 4
        assert text.startswith(
            f"shard {index}/2: scored 2 of 3 cases: {tmp_path / str(index)}/shard-{index}-of-2.json\n"
        )
        assert text.endswith("medcalib merge SCORES... --out SCORES\n")
        assert errors.startswith(f"refused {UNPREDICTED if index else BAD}: ")
    merged = run("merge", tmp_path / "1", tmp_path / "0", "--out", tmp_path / "all")
    assert merged == run(*pair(folder), "--out", folder / "scores")
    assert "scored 4 of 6 cases" in merged[1]
    assert contents(tmp_path / "all") == contents(folder / "scores")


@pytest.mark.fault(56)
def test_cases_without_a_partner_are_counted_reported_and_end_with_4(folder: Path, tmp_path: Path) -> None:
    shutil.copytree(folder / "labels", tmp_path / "labels")
    (tmp_path / "labels" / "case_0.nii.gz").unlink()
    code, text, errors = run(
        "score", "--predictions", folder / "predictions", "--labels", tmp_path / "labels", "--out", tmp_path / "scores"
    )
    assert code == 4
    assert "scored 3 of 6 cases" in text
    assert all(case in text + errors for case in ("case_0", BAD, UNPREDICTED))
    found = json.loads((tmp_path / "scores" / SCORES).read_text())
    assert (found["n_expected"], found["n_scored"]) == (6, 3)
    assert {entry["case"]: entry["reason"] for entry in found["refused"]} == {
        "case_0": "missing_reference", BAD: "damaged_gzip", UNPREDICTED: "missing_prediction",
    }  # fmt: skip


def test_json_is_the_file(folder: Path, tmp_path: Path) -> None:
    code, text, _ = run(*pair(folder), "--out", tmp_path, "--shard", "1/3", "--json")
    assert (code, json.loads(text)) == (0, json.loads((tmp_path / "shard-1-of-3.json").read_text()))
    code, text, _ = run("merge", folder / "scores", "--out", tmp_path, "--json")
    assert (code, json.loads(text)) == (4, json.loads((tmp_path / SCORES).read_text()))


@pytest.mark.parametrize(
    ("options", "code", "words"),
    [
        (["--shard", "4/4"], 2, "error: there is no shard 4/4: shards are counted from 0, 4 of them are 0/4 to 3/4"),
        (["--shard", "first"], 2, "expected i/N"),
        (["--workers", "0"], 2, "--workers"),
        (["--strict"], 4, f"error: {UNPREDICTED}: "),
    ],
)
def test_mistakes_end_with_a_code_and_one_text(
    folder: Path, tmp_path: Path, options: list[str], code: int, words: str
) -> None:
    found = run(*pair(folder), "--out", tmp_path / "scores", *options)
    assert found[0] == code
    assert words in found[2]
    assert not (tmp_path / "scores" / SCORES).exists()


def test_what_cannot_be_merged_ends_with_3_and_every_reason(folder: Path, tmp_path: Path) -> None:
    run(*pair(folder), "--out", tmp_path / "part", "--shard", "0/3")
    code, text, errors = run("merge", tmp_path / "part", "--out", tmp_path / "all")
    assert (code, text) == (3, "")
    assert [line.split(":")[1] for line in errors.splitlines()] == [" shard 1/3", " shard 2/3"]
    assert run("merge", tmp_path / "nowhere", "--out", tmp_path / "all")[0] == 3
    assert run("merge", "--out", tmp_path / "all")[0] == 2


def test_an_output_that_is_a_file_is_named(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "scores").write_text("")
    code, _, errors = run(*pair(folder), "--out", tmp_path / "scores")
    assert code == 2
    assert errors.startswith("error: ")
    assert str(tmp_path / "scores") in errors


@pytest.mark.fault(76)
def test_no_folder_name_reaches_a_shard_or_a_merge(folder: Path, tmp_path: Path) -> None:
    private = tmp_path / "Jane_Doe"
    shutil.copytree(folder / "predictions", private / "predictions")
    shutil.copytree(folder / "labels", private / "labels")
    (private / "predictions" / "case_0.nii.gz").write_bytes(b"")
    for index in range(2):
        run(*pair(private), "--out", tmp_path / "scores", "--shard", f"{index}/2")
    assert run("merge", tmp_path / "scores", "--out", tmp_path / "scores")[0] == 4
    written = list((tmp_path / "scores").iterdir())
    assert len(written) == 3 + 3
    assert not [path.name for path in written if b"Jane_Doe" in path.read_bytes()]


@pytest.mark.fault(75)
def test_a_closed_pipe_is_no_error(folder: Path, tmp_path: Path) -> None:
    parts = " ".join(f"'{part}'" for part in [sys.executable, "-m", "medcalib", *pair(folder), "--out", tmp_path])
    found = subprocess.run(
        ["bash", "-c", f"{parts} --json | head -c 10"], capture_output=True, text=True, timeout=300, check=False
    )
    assert found.stdout == '{\n "datase'
    assert "Traceback" not in found.stderr
    assert contents(tmp_path) == contents(folder / "scores")


def test_many_cases_of_one_mistake_are_one_line_and_each_is_kept(folder: Path, tmp_path: Path) -> None:
    """Predictions whose ids are not those of the labels."""
    shutil.copytree(folder / "labels", tmp_path / "labels")
    for path in list((tmp_path / "labels").iterdir()):
        path.rename(path.with_name(f"patient_{path.name}"))
    arguments = ["score", "--predictions", folder / "predictions", "--labels", tmp_path / "labels", "--out"]
    code, text, _ = run(*arguments, tmp_path / "scores")
    assert code == 4
    told = [line for line in text.splitlines() if line.startswith("refused ")]
    assert len(told) == 2
    assert told[0].startswith("refused 5 cases (case_0, case_1, ...): no reference label for this prediction; ")
    assert told[1].startswith(
        "refused 6 cases (patient_case_0, patient_case_1, ...): the first: no prediction patient_"
    )
    stored = json.loads((tmp_path / "scores" / "scores.json").read_text())["refused"]
    assert len(stored) == len(json.loads(run(*arguments, tmp_path / "again", "--json")[1])["refused"]) == 11
    assert {entry["case"] for entry in stored} >= {"case_0", "patient_case_5"}
