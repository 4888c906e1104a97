"""No id leads out of a folder, by whatever route it becomes the name of a file: it is refused, and said by name."""

from __future__ import annotations

import io
import json
import os
import shutil
from collections.abc import Sequence
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from flat import LABELS, SCORES, save_calibrator, write_flat
from helpers import LPS, smooth_case

from medcalib.cli import app
from medcalib.config import RunConfig, load
from medcalib.config.bundled import bundled
from medcalib.data.case import Case
from medcalib.data.predictions import INDEX
from medcalib.engine.compare.plan import PLAN, Plan, read_plan
from medcalib.engine.prediction_folder import Prediction, write_predictions
from medcalib.errors import DataError
from medcalib.files import CASE_ID, check_case_id, read_json, write_json
from medcalib.metrics import CaseScores

UNSAFE = [
    "../../evil", "/abs/evil", "a/../../b", "..", "a\0b", "x" * 300, "CON", "com1.x", ".hidden", "dot.",
    "c\u0430se_0", "a b", "a\nb", "", "\udcff",
]  # fmt: skip
FILES = ["CON", "c\u0430se_0", os.fsdecode(b"\xff"), "a b", "a\nb", "dot."]  # that a folder can hold


def run(*arguments: object) -> tuple[int, str]:
    """Exit code and what was said, on streams as `main` sets them; only known errors may end a command."""
    said = io.TextIOWrapper(io.BytesIO(), "utf-8", "backslashreplace")
    with redirect_stdout(said), redirect_stderr(said), pytest.raises(SystemExit) as ended:
        app([str(argument) for argument in arguments])
    said.seek(0)
    return int(ended.value.code or 0), said.read()


def commands(folder: Path) -> dict[str, list[object]]:
    """Commands that write a file a case, with the index that tells what was refused."""
    pair = ["--predictions", folder / "predictions", "--labels", folder / "labels"]
    return {
        SCORES: ["score", *pair, "--out", folder / "out"],
        "maps.json": ["maps", *pair, "--out", folder / "out", "--maps", "error"],
        INDEX: ["apply", folder / "calibrator.safetensors", *pair, "--out", folder / "out"],
    }


ROUTES = [SCORES, "maps.json", INDEX]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two cases and a calibrator; two levels down, so that `../..` is seen."""
    root = tmp_path / "a" / "b"
    write_flat(root, 2, (8, 7, 6))
    save_calibrator(root / "calibrator.safetensors")
    return root


def outside(folder: Path) -> set[str]:
    """Every file but those that the commands may write."""
    top = folder.parent.parent
    return {str(path) for path in top.rglob("*") if not path.is_relative_to(folder / "out")}


def refused(folder: Path, index: str) -> dict[str, str]:
    found = json.loads((folder / "out" / index).read_text(encoding="utf-8"))
    return {entry["case"]: entry["reason"] for entry in found["refused"]}


@pytest.mark.fault(16)
@pytest.mark.parametrize("name", UNSAFE)
def test_a_name_that_cannot_be_a_file_everywhere_is_no_id(name: str) -> None:
    with pytest.raises(DataError, match="cannot be a file name") as caught:
        check_case_id(name)
    assert caught.value.reason == "unsafe_case_id"


@pytest.mark.fault(16)
@pytest.mark.parametrize("route", ROUTES[:2])
def test_ids_that_an_index_claims_are_refused_and_never_looked_for(folder: Path, route: str) -> None:
    write_json(folder / "predictions" / INDEX, {"cases": ["case_0", "case_1", *UNSAFE]})
    before = outside(folder)
    code, _ = run(*commands(folder)[route])
    assert code == 4
    assert refused(folder, route) == dict.fromkeys(UNSAFE, "unsafe_case_id")
    assert outside(folder) == before
    assert all(CASE_ID.match(path.name.partition(".")[0]) for path in (folder / "out").iterdir())


@pytest.mark.fault(16)
@pytest.mark.parametrize("route", ROUTES)
def test_file_names_that_are_no_ids_are_refused(folder: Path, route: str) -> None:
    for part in ("predictions", "labels"):
        for name in FILES:
            shutil.copy(folder / part / "case_0.nii.gz", folder / part / f"{name}.nii.gz")
            if part == "predictions":
                shutil.copy(folder / part / "case_0.json", folder / part / f"{name}.json")
    before = outside(folder)
    code, _ = run(*commands(folder)[route])
    assert code == 4
    assert refused(folder, route) == dict.fromkeys(FILES, "unsafe_case_id")
    assert outside(folder) == before


@pytest.mark.fault(16)
@pytest.mark.parametrize("route", ROUTES)
def test_two_ids_that_differ_by_case_only_are_not_both_written(folder: Path, route: str) -> None:
    for part in ("predictions", "labels"):
        for path in list((folder / part).glob("case_0.*")):
            shutil.copy(path, path.with_name(path.name.replace("case_0", "Case_0")))
    code, text = run(*commands(folder)[route])
    assert code == 4
    assert refused(folder, route) == {"case_0": "duplicate_case_id"}
    assert "differs from Case_0 in letter case alone" in text


@pytest.mark.fault(16)
def test_a_dataset_with_one_id_twice_is_not_scored(folder: Path) -> None:
    data = folder / "data"
    for group in ("HGG", "LGG"):
        (data / group / "a").mkdir(parents=True)
        for name in ("t1", "t1ce", "t2", "flair", "seg"):
            shutil.copy(folder / "labels" / "case_0.nii.gz", data / group / "a" / f"a_{name}.nii.gz")
    pair = ["--predictions", folder / "predictions", "--labels", data, "--config", "brats"]
    code, text = run("score", *pair, "--out", folder / "out")
    assert code == 3
    assert "the case id is also that of a, letter case apart; rename one [duplicate_case_id]" in text


@pytest.mark.fault(16)
def test_a_dataset_with_an_unsafe_id_is_refused_by_check_and_score(folder: Path) -> None:
    """nnU-Net's dataset.json may name its cases itself; a split of a foreign run may name them, too."""
    data = folder / "data"
    shutil.copytree(folder / "labels", data / "imagesTr")
    entry = {"images": ["imagesTr/case_0.nii.gz"], "label": "imagesTr/case_0.nii.gz"}
    write_json(data / "dataset.json", {"modality": {"0": "MR"}, "dataset": {"../../evil": entry, "case_0": entry}})
    options = ["--set", "data.layout=nnunet"]
    before = outside(folder)
    code, text = run("check", "phantom", "--data", data, *options)
    assert (code, "[unsafe_case_id]" in text) == (3, True)
    pair = ["--predictions", folder / "predictions", "--labels", data, "--config", "phantom", *options]
    write_json(folder / "predictions" / INDEX, {"cases": ["../../evil"]})
    assert run("score", *pair, "--out", folder / "out")[0] == 4
    assert refused(folder, SCORES)["../../evil"] == "unsafe_case_id"
    assert outside(folder) == before | {str(folder / "predictions" / INDEX)}


@pytest.mark.fault(16)
def test_predictions_of_an_unsafe_id_are_neither_written_nor_removed(folder: Path) -> None:
    probs, _ = smooth_case(0, 3, (8, 7, 6))
    victim = folder.parent / "evil.nii.gz"
    victim.write_bytes(b"kept")
    before = outside(folder)
    cases = [Case(name, "p", ()) for name in ("case_0", *UNSAFE, "../../evil", "../evil")]
    index = write_predictions(
        folder / "out", {}, "test", cases, lambda _: Prediction(probs.numpy(), LPS, LABELS), (), "predict"
    )
    assert {entry["reason"] for entry in index["refused"]} == {"unsafe_case_id"}
    assert len(index["refused"]) == len(cases) - 1
    assert outside(folder) == before
    assert victim.read_bytes() == b"kept"


def spoiled_scores(folder: Path, name: str, *, shard: bool = False) -> Path:
    """Scores of the two cases, and of a third one, by an attacker: its counts lie where `name` leads to."""
    assert run(*commands(folder)[SCORES])[0] == 0
    scores = folder / "out"
    numbers = read_json(scores / SCORES)
    numbers["cases"][name] = numbers["cases"]["case_0"]
    write_json(scores / SCORES, numbers)
    stored = CaseScores.load(scores / "case_0.npz")
    replace(stored, case_id=name).save(scores.parent / "outside.npz")
    return scores


@pytest.mark.fault(16)
@pytest.mark.parametrize("name", ["../outside", "/abs", "a\0b"])
def test_scores_of_an_attacker_lead_merge_and_report_nowhere(folder: Path, name: str) -> None:
    scores = spoiled_scores(folder, name)
    before = outside(folder)
    code, text = run("merge", scores, "--out", folder / "out" / "merged")
    assert (code, "cannot be a file name" in text) == (3, True)
    code, text = run("report", scores, "--out", folder / "out" / "report.html")
    assert (code, "lacks the counts of" in text) == (3, True)
    assert outside(folder) == before
    assert not (folder / "out" / "report.html").exists()


@pytest.mark.fault(16)
def test_a_report_of_counts_with_an_unsafe_id_reads_no_map_outside(folder: Path) -> None:
    """Here the counts lie in the folder, under the name of a sound file, and hold the id."""
    name = "../secret/case_0"
    assert run(*commands(folder)["maps.json"])[0] == 0
    shutil.move(folder / "out", folder / "secret")
    scores = spoiled_scores(folder, name)
    shutil.move(folder / "outside.npz", scores / "outside.npz")
    (folder / "maps").mkdir()
    code, _ = run("report", scores, "--maps", folder / "maps", "--out", folder / "report.html", "--cases", "3")
    assert code == 0
    page = (folder / "report.html").read_text(encoding="utf-8")
    assert "data:image/png" not in page
    assert page.count("case_0_error.nii.gz") <= 1


@pytest.mark.fault(16)
@pytest.mark.parametrize("name", UNSAFE)
def test_refusals_of_an_attacker_are_told_and_nothing_else(folder: Path, name: str) -> None:
    assert run(*commands(folder)[SCORES])[0] == 0
    numbers = read_json(folder / "out" / SCORES)
    numbers["refused"] = [{"case": name, "reason": "x", "message": "y"}]
    write_json(folder / "out" / SCORES, numbers)
    before = outside(folder)
    assert run("merge", folder / "out", "--out", folder / "out" / "merged")[0] == 4
    assert [entry["case"] for entry in read_json(folder / "out" / "merged" / SCORES)["refused"]] == [name]
    assert outside(folder) == before


@pytest.mark.fault(16)
@pytest.mark.parametrize("name", [*UNSAFE[:5], "CON/x", "all", "dice"])
def test_a_mask_cannot_be_called_by_a_path(folder: Path, name: str) -> None:
    code, text = run(*commands(folder)[SCORES], "--mask", f"{name}={folder / 'labels'}")
    assert (code, "a mask cannot be called" in text) == (2, True)
    assert not (folder / "out").exists()


def plan_of(config: RunConfig, **changed: Any) -> dict[str, Any]:
    shared = config.model_dump(mode="json", exclude={"loss": True, "train": {"seed", "device"}})
    plan = Plan(shared, {"ce": {"name": "ce"}}, {}, [0], ["temperature"], "test", "best", "ce")
    return {"version": 1, **vars(plan), **changed}


@pytest.mark.fault(16)
@pytest.mark.parametrize(
    "changed",
    [
        {"methods": {"../../evil": {"name": "ce"}}},
        {"methods": {"/abs": {"name": "ce"}}},
        {"methods": {"..": {"name": "ce"}}},
        {"seeds": ["0/../../../evil"]},
        {"seeds": [True]},
        {"calibrators": ["../../evil"]},
    ],
)
def test_a_plan_of_an_attacker_leads_compare_nowhere(tmp_path: Path, changed: dict[str, Sequence[object]]) -> None:
    config = load(bundled()["phantom"], data=str(tmp_path))
    write_json(tmp_path / PLAN, plan_of(config))
    assert read_plan(tmp_path).cells()[0].label == "ce"
    write_json(tmp_path / PLAN, plan_of(config, **changed))
    with pytest.raises(DataError, match="is no plan of this version") as caught:
        read_plan(tmp_path)
    assert caught.value.reason == "broken_plan"


def test_bytes_of_a_file_name_that_are_no_utf_8_can_be_written_and_read(tmp_path: Path) -> None:
    write_json(tmp_path / "a.json", {"case": "\udcff\u00e9"})
    assert read_json(tmp_path / "a.json") == {"case": "\udcff\u00e9"}
