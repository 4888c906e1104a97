"""Links: what lies outside an output folder is never written, and a circle of links refuses a case, not the run."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from flat import SCORES, save_calibrator, write_flat
from typer.testing import CliRunner

from medcalib.cli import app
from medcalib.config import load
from medcalib.config.bundled import bundled
from medcalib.data.predictions import INDEX
from medcalib.engine.compare.plan import Plan
from medcalib.engine.compare.runner import Options, run_cells
from medcalib.engine.run import METRICS, append_metrics
from medcalib.engine.train import train
from medcalib.errors import ConfigError
from medcalib.files import appending, refuse_links_out

KEPT = b"kept as it is"


def run(*arguments: object) -> tuple[int, str]:
    found = CliRunner().invoke(app, [str(argument) for argument in arguments])
    assert isinstance(found.exception, SystemExit | None), found.exception
    return found.exit_code, found.stderr


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two cases, a calibrator, and a file and a folder outside the output folder."""
    write_flat(tmp_path, 2, (8, 7, 6))
    save_calibrator(tmp_path / "calibrator.safetensors")
    (tmp_path / "victim").write_bytes(KEPT)
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "out").mkdir()
    return tmp_path


def command(folder: Path, name: str) -> list[object]:
    pair: list[object] = ["--predictions", folder / "predictions", "--labels", folder / "labels"]
    return {
        "score": ["score", *pair, "--out", folder / "out"],
        "shard": ["score", *pair, "--out", folder / "out", "--shard", "0/1"],
        "maps": ["maps", *pair, "--out", folder / "out"],
        "apply": ["apply", folder / "calibrator.safetensors", *pair, "--out", folder / "out"],
        "calibrate": ["calibrate", *pair, "--out", folder / "out" / "fitted.safetensors"],
        "merge": ["merge", folder / "scores", "--out", folder / "out"],
        "report": ["report", folder / "scores", "--out", folder / "out" / "report.html"],
        "schema": ["schema", "--out", folder / "out" / "schema.json"],
    }[name]


WRITTEN = {
    "score": [SCORES, "case_0.npz"],
    "shard": ["shard-0-of-1.json", "case_1.npz"],
    "maps": ["maps.json", "case_0_error.nii.gz", "case_1_gap.nii.gz"],
    "apply": [INDEX, "case_0.nii.gz", "case_0.json"],
    "calibrate": ["fitted.safetensors"],
    "merge": [SCORES, "case_0.npz"],
    "report": ["report.html"],
    "schema": ["schema.json"],
}


@pytest.mark.fault(17)
@pytest.mark.parametrize("name", WRITTEN)
def test_a_link_in_place_of_an_output_is_replaced_and_its_target_kept(folder: Path, name: str) -> None:
    if name in ("merge", "report"):
        assert run(*command(folder, "score")[:-1], folder / "scores")[0] == 0
    targets, kept = {}, set()
    for file in WRITTEN[name]:
        link = folder / "out" / file
        targets[link] = folder / f"victim_of_{file}"
        if not file.endswith(".json") or name == "schema":  # an index is read first, to tell whose the folder is
            targets[link].write_bytes(KEPT)
            kept.add(targets[link])
        link.symlink_to(targets[link])
    code, text = run(*command(folder, name))
    assert code == 0, text
    for link, target in targets.items():
        assert link.is_file()
        assert not link.is_symlink(), link
        assert target.read_bytes() == KEPT if target in kept else not target.exists()


@pytest.mark.fault(17)
def test_a_folder_of_segmentations_that_leads_out_is_refused_before_anything_is_written(folder: Path) -> None:
    (folder / "elsewhere" / "case_0.nii.gz").write_bytes(KEPT)
    (folder / "out" / "segmentations").symlink_to(folder / "elsewhere", target_is_directory=True)
    code, text = run(*command(folder, "apply"))
    assert code == 2
    assert "segmentations is a link that leads out of" in text
    assert [path.read_bytes() for path in (folder / "elsewhere").iterdir()] == [KEPT]
    assert [path.name for path in (folder / "out").iterdir()] == ["segmentations"]


@pytest.mark.fault(17)
@pytest.mark.parametrize("place", ["checkpoints", "tensorboard"])
@pytest.mark.parametrize("resume", [False, True])
def test_a_run_folder_with_a_link_that_leads_out_is_not_trained_in(folder: Path, place: str, resume: bool) -> None:
    (folder / "out" / place).symlink_to(folder / "elsewhere", target_is_directory=True)
    with pytest.raises(ConfigError, match="leads out of"):
        train(load(bundled()["phantom"], data=str(folder)), folder / "out", resume=resume)
    assert [path.name for path in (folder / "out").iterdir()] == [place]
    assert not any((folder / "elsewhere").iterdir())


@pytest.mark.fault(17)
@pytest.mark.parametrize(
    "place", ["cells", "cells/ce", "cells/ce/seed0", "cells/ce/seed0/run", "cells/ce/seed0/scores"]
)
def test_a_comparison_with_a_link_that_leads_out_does_nothing(folder: Path, place: str) -> None:
    (folder / "out" / place).parent.mkdir(parents=True, exist_ok=True)
    (folder / "out" / place).symlink_to(folder / "elsewhere", target_is_directory=True)
    plan = Plan({}, {"ce": {"name": "ce"}}, {}, [0], [], "test", "best", "ce")
    with pytest.raises(ConfigError, match="leads out of"):
        run_cells(plan, folder / "out", Options(["cpu"]))
    assert not any((folder / "elsewhere").iterdir())


@pytest.mark.fault(17)
def test_what_is_appended_to_is_no_link(folder: Path) -> None:
    (folder / "out" / METRICS).symlink_to(folder / "victim")
    with pytest.raises(OSError, match=METRICS):
        append_metrics(folder / "out", {"epoch": 1})
    (folder / "out" / "log").symlink_to(folder / "victim")
    with pytest.raises(OSError, match="log"):
        appending(folder / "out" / "log")
    assert (folder / "victim").read_bytes() == KEPT


def test_links_within_a_folder_and_the_folder_itself_are_followed(folder: Path) -> None:
    (folder / "out" / "a").mkdir()
    (folder / "out" / "b").symlink_to(folder / "out" / "a", target_is_directory=True)
    (folder / "out" / "c").symlink_to(folder / "victim")  # of a file: it would be replaced
    (folder / "link").symlink_to(folder / "out", target_is_directory=True)
    refuse_links_out(folder / "link")
    refuse_links_out(folder / "absent")


def loop(path: Path) -> None:
    path.unlink(missing_ok=True)
    path.symlink_to(path)


@pytest.mark.fault(18)
def test_a_circle_of_links_refuses_its_case_and_no_other(folder: Path) -> None:
    write_flat(folder, 5, (8, 7, 6))
    loop(folder / "labels" / "case_0.nii.gz")
    loop(folder / "predictions" / "case_1.nii.gz")
    for name, index in (("score", SCORES), ("maps", "maps.json")):
        assert run(*command(folder, name))[0] == 4
        found = json.loads((folder / "out" / index).read_text())
        reasons = {entry["case"]: entry["reason"] for entry in found["refused"]}
        assert reasons["case_0"] in ("missing_reference", "missing_prediction")
        assert reasons["case_1"] == "unreadable"
        assert set(found["cases"]) == {"case_3", "case_4"}


@pytest.mark.fault(18)
def test_check_names_a_circle_of_links_in_a_data_folder(folder: Path) -> None:
    for part in ("images", "labels"):
        (folder / "data" / part).mkdir(parents=True)
        for k in range(4):
            target = folder / "labels" / "case_0.nii.gz"
            (folder / "data" / part / f"c{k}.nii.gz").symlink_to(target)
    loop(folder / "data" / "images" / "c1.nii.gz")
    loop(folder / "data" / "labels" / "c2.nii.gz")
    code, text = run("check", "phantom", "--data", folder / "data", "--set", "data.layout=files")
    assert code == 3
    told = [line for line in text.splitlines() if "c1: " in line or "c2: " in line]
    assert len(told) == 2
    assert all("Too many levels of symbolic links" in line and "[unreadable]" in line for line in told)


@pytest.mark.fault(18)
@pytest.mark.parametrize(
    ("option", "code"), [("--predictions", 3), ("--labels", 3), ("--out", 2)]
)  # fmt: skip
@pytest.mark.parametrize("name", ["score", "maps", "apply"])
def test_a_folder_that_is_a_circle_of_links_is_refused(folder: Path, name: str, option: str, code: int) -> None:
    loop(folder / "circle")
    words = command(folder, name)
    words[words.index(option) + 1] = folder / "circle"
    found, text = run(*words)
    assert found == code
    assert "circle" in text


@pytest.mark.fault(18)
def test_merge_and_report_of_a_circle_of_links_are_refused(folder: Path) -> None:
    loop(folder / "circle")
    assert run("merge", folder / "circle", "--out", folder / "out")[0] == 3
    assert run("report", folder / "circle", "--out", folder / "out" / "x.html")[0] in (2, 3)
    assert run("check", "phantom", "--data", folder / "circle")[0] == 3
