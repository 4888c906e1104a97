"""provenance.json says what a run was made from, names nobody, and notices data that changed."""

from __future__ import annotations

import getpass
import hashlib
import json
import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import torch
from runs import signal_after
from tiny import TINY, changed

from medcalib.config import RunConfig, load
from medcalib.config.bundled import bundled
from medcalib.data.case import Case
from medcalib.engine import fingerprints as prints
from medcalib.engine.multiplier_line import multipliers
from medcalib.engine.provenance import Provenance, config_sha256
from medcalib.engine.surroundings import command, driver_of, source
from medcalib.engine.train import train
from medcalib.errors import CheckpointError, DataRefusedError, PreemptedError
from medcalib.losses import build

CPU = torch.device("cpu")


def content(run: Path) -> dict[str, Any]:
    return json.loads((run / "provenance.json").read_text())


@pytest.fixture
def moved(phantom: Path, tmp_path: Path) -> RunConfig:
    """A config whose data may be changed."""
    shutil.copytree(phantom, tmp_path / "data")
    return load(bundled()["phantom"], data=str(tmp_path / "data"), overrides=TINY)


def stopped(config: RunConfig, run: Path) -> None:
    """A run that a signal ended in its second epoch."""
    with pytest.MonkeyPatch.context() as patch:
        signal_after(4, patch)
        with pytest.raises(PreemptedError):
            train(config, run)


def label_of_a_training_case(config: RunConfig, run: Path) -> tuple[str, Path]:
    case = json.loads((run / "split.json").read_text())["train"][0]
    return case, next(config.root.rglob(f"{case}_gt.nii.gz"))


def test_it_holds_the_hash_of_every_file_of_every_split(moved: RunConfig, tmp_path: Path) -> None:
    train(changed(moved, epochs=1), tmp_path / "run")
    found, split = content(tmp_path / "run")["data"], json.loads((tmp_path / "run" / "split.json").read_text())
    assert found["kind"] == "content"
    assert {name: list(cases) for name, cases in found["files"].items()} == split
    for cases in found["files"].values():
        for case, files in cases.items():
            image = next(moved.root.rglob(f"{case}.nii.gz"))
            label = image.with_name(f"{case}_gt.nii.gz")
            assert files["image 1"]["sha256"] == hashlib.sha256(image.read_bytes()).hexdigest()
            assert files["label"]["sha256"] == hashlib.sha256(label.read_bytes()).hexdigest()


def test_each_start_has_an_entry(moved: RunConfig, tmp_path: Path) -> None:
    stopped(moved, tmp_path / "run")
    train(moved, tmp_path / "run", resume=True)
    first, second = content(tmp_path / "run")["starts"]
    assert (first["status"], first["from"]) == ("preempted", {"epoch": 0, "step": 0})
    assert (second["status"], second["from"]) == ("finished", {"epoch": 1, "step": 2})
    assert first["started"] <= first["ended"] <= second["started"] <= second["ended"]
    for entry in (first, second):
        assert entry["config_sha256"] == config_sha256(moved)
        assert entry["seed"] == moved.train.seed
        assert entry["versions"]["torch"] == torch.__version__
        assert (entry["ranks"], entry["host"]["device"]) == (1, "cpu")


def test_a_failed_start_says_so(moved: RunConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("medcalib.engine.train._step", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        train(moved, tmp_path / "run")
    assert content(tmp_path / "run")["starts"][0]["status"] == "failed"


@pytest.mark.fault(76)
def test_it_names_neither_paths_nor_people(moved: RunConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.argv", ["/x/medcalib", "train", "/home/jane/c.yaml", "--data", str(tmp_path)])
    train(changed(moved, epochs=1), tmp_path / "run")
    text = (tmp_path / "run" / "provenance.json").read_text()
    for secret in (str(tmp_path), str(moved.root), "jane", os.uname().nodename, f'"{getpass.getuser()}"'):
        assert secret not in text
    assert content(tmp_path / "run")["starts"][0]["command"] == ["train", "…", "--data", "…"]


def test_the_hash_of_the_config_ignores_where_the_data_lie(tiny: RunConfig, moved: RunConfig) -> None:
    assert config_sha256(tiny) == config_sha256(moved)
    assert config_sha256(tiny) != config_sha256(changed(tiny, lr=0.5))


def test_changed_data_are_refused_with_the_case_and_nothing_is_written(moved: RunConfig, tmp_path: Path) -> None:
    run = tmp_path / "run"
    stopped(moved, run)
    case, label = label_of_a_training_case(moved, run)
    replacement = next(path for path in label.parent.glob("*_gt.nii.gz") if path != label)
    shutil.copyfile(replacement, label)
    before = {path.name: path.read_bytes() for path in run.iterdir() if path.is_file()}
    with pytest.raises(DataRefusedError, match=rf"{case}: its label is not the file .*\[changed_file\]"):
        train(moved, run, resume=True)
    assert {path.name: path.read_bytes() for path in run.iterdir() if path.is_file()} == before


def test_touched_data_and_data_elsewhere_are_the_same(moved: RunConfig, tmp_path: Path) -> None:
    run = tmp_path / "run"
    stopped(moved, run)
    os.utime(label_of_a_training_case(moved, run)[1], ns=(1, 1))
    shutil.copytree(moved.root, tmp_path / "elsewhere")
    elsewhere = load(bundled()["phantom"], data=str(tmp_path / "elsewhere"), overrides=TINY)
    train(elsewhere, run, resume=True)
    assert [entry["status"] for entry in content(run)["starts"]] == ["preempted", "finished"]


def test_a_run_of_an_earlier_version_gets_one_when_it_goes_on(moved: RunConfig, tmp_path: Path) -> None:
    stopped(moved, tmp_path / "run")
    (tmp_path / "run" / "provenance.json").unlink()
    train(moved, tmp_path / "run", resume=True)
    assert content(tmp_path / "run")["starts"][0]["from"] == {"epoch": 1, "step": 2}


def test_one_of_a_later_format_is_refused(tiny: RunConfig, tmp_path: Path) -> None:
    (tmp_path / "provenance.json").write_text('{"format": 2}')
    with pytest.raises(CheckpointError, match="newer version"):
        Provenance(tmp_path, tiny, CPU, {})


def case_of(folder: Path, raw: bytes) -> Case:
    (folder / "a.nii").write_bytes(raw)
    return Case("a", "a", (folder / "a.nii",))


def of_a(split: dict[str, list[Case]], **options: Any) -> dict[str, Any]:
    return prints.fingerprints(split, **options)[1]["train"]["a"]["image 1"]


@pytest.mark.parametrize(("raw", "read"), [(b"0123456789", b"0189"), (b"012", b"012"), (b"01", b"01"), (b"", b"")])
def test_ends_are_hashed_where_there_is_too_much(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, raw: bytes, read: bytes
) -> None:
    monkeypatch.setattr(prints, "CONTENT_UP_TO", -1)
    monkeypatch.setattr(prints, "END", 2)
    split = {"train": [case_of(tmp_path, raw)]}
    assert prints.fingerprints(split)[0] == "ends"
    assert of_a(split)["sha256"] == hashlib.sha256(read).hexdigest()
    assert of_a(split)["bytes"] == len(raw)


def test_a_file_of_known_size_and_time_is_not_read_again(tmp_path: Path) -> None:
    split = {"train": [case_of(tmp_path, b"one")]}
    kind, known = prints.fingerprints(split)
    known["train"]["a"]["image 1"]["sha256"] = "remembered"
    assert of_a(split, kind=kind, known=known)["sha256"] == "remembered"
    os.utime(tmp_path / "a.nii", ns=(1, 1))
    assert of_a(split, kind=kind, known=known)["sha256"] == hashlib.sha256(b"one").hexdigest()


def test_a_file_more_or_less_is_a_change(tmp_path: Path) -> None:
    case = case_of(tmp_path, b"one")
    with_label = Case("a", "a", case.images, label=case.images[0])
    less, more = (prints.fingerprints({"train": [c]})[1] for c in (case, with_label))
    assert prints.changed(less, more) == prints.changed(more, less) == [("a", "label")]
    assert prints.changed(more, more) == []


@pytest.mark.parametrize(
    ("argv", "kept"),
    [
        (["medcalib", "train", "acdc", "--loss", "mbls", "--resume"], ["train", "…", "--loss", "mbls", "--resume"]),
        (["medcalib", "train", "c", "--loss=mbls", "--data=/d"], ["train", "…", "--loss", "mbls", "--data", "…"]),
        (
            ["medcalib", "train", "c", "--data", "d", "--loss", "ce", "--out", "r"],
            ["train", "…", "--data", "…", "--loss", "ce", "--out", "…"],
        ),
        (["medcalib", "train", "c", "--set", "data.exclude=[jane]"], ["train", "…", "--set", "data.exclude=…"]),
        (["medcalib", "train", "c", "--set", "split.val=[jane]"], ["train", "…", "--set", "split.val=…"]),
        (["medcalib", "train", "c", "--set", "name=C:\\jane"], ["train", "…", "--set", "name=…"]),
        (["medcalib", "train", "c", "--set", "train.epochs=3"], ["train", "…", "--set", "train.epochs=3"]),
        (["medcalib", "train", "c", "--loss", "/home/jane"], ["train", "…", "--loss", "…"]),
        (["medcalib", "train", "c", "--set", "/home/jane=1"], ["train", "…", "--set", "…"]),
        (["medcalib", "train", "jane"], ["train", "…"]),
        (["/jane/medcalib/__main__.py", "/jane"], ["…"]),
        (["medcalib"], []),
        (["/jane/script.py", "train"], None),
        ([""], None),
    ],
)
def test_of_the_command_remains_what_was_done(argv: list[str], kept: list[str] | None) -> None:
    assert command(argv) == kept


def test_a_checkout_tells_its_commit_and_whether_it_was_changed(tmp_path: Path) -> None:
    package = tmp_path / "medcalib"
    package.mkdir()
    assert source(package) is None
    (package / "a.py").write_text("")
    who = ("-c", "user.name=n", "-c", "user.email=e@x")
    for words in (["init", "-q"], ["add", "."], [*who, "commit", "-qm", "one"]):
        subprocess.run(["git", "-C", tmp_path, *words], check=True)
    head = subprocess.run(["git", "-C", tmp_path, "rev-parse", "HEAD"], capture_output=True, text=True, check=True)
    assert source(package) == {"commit": head.stdout.strip(), "dirty": False}
    (package / "a.py").write_text("changed")
    assert source(package) == {"commit": head.stdout.strip(), "dirty": True}


@pytest.mark.parametrize(
    ("line", "version"),
    [
        ("NVRM version: NVIDIA UNIX x86_64 Kernel Module  535.183.01  Sun May 12 19:39:15 UTC 2024", "535.183.01"),
        ("NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  570.86.15  Release Build", "570.86.15"),
        ("something else 1.2 ", None),
    ],
)
def test_the_driver_is_read_from_both_kinds_of_module(line: str, version: str | None) -> None:
    assert driver_of(f"{line}\nGCC version: gcc version 12.2.0 (Debian)\n") == version


NAMES = ("background", "RV", "LV")


@pytest.mark.parametrize(
    ("loss", "options", "names"),
    [
        ("cals_alm", {}, list(NAMES)),
        ("cals_hr", {}, list(NAMES)),
        ("crac", {}, [f"{region}/{name}" for region in ("boundary", "interior") for name in NAMES]),
        ("crac", {"granularity": "region"}, ["boundary", "interior"]),
        ("crac", {"granularity": "class"}, list(NAMES)),
        ("crac", {"granularity": "scalar"}, ["all"]),
    ],
)
def test_multipliers_have_names(loss: str, options: dict[str, Any], names: list[str]) -> None:
    (found,) = multipliers(build(loss, 3, **options), NAMES)["multipliers"].values()
    assert found["names"] == names
    start = 1.0 if loss == "cals_hr" else 1e-6
    assert found["lam"] == [start] * len(names)
    assert found.get("rho") == (None if loss == "cals_hr" else [0.1 if loss == "crac" else 1.0] * len(names))


def test_a_multiplier_is_told_under_the_class_it_belongs_to() -> None:
    """Class 2 alone is far below the top logit, everywhere, in a label map without boundaries."""
    objective = build("cals_alm", 3)
    logits = torch.zeros(1, 3, 4, 4)
    logits[:, 2] = -30.0
    objective.observe(logits, torch.zeros(1, 4, 4, dtype=torch.long))
    objective.update_multipliers()
    (found,) = multipliers(objective, NAMES)["multipliers"].values()
    assert found["lam"] == [1e-6, 1e-6, 2.0]  # rho (d - 10) / 10 with d = 30


def test_a_loss_without_multipliers_adds_nothing() -> None:
    assert multipliers(build("mbls", 3), NAMES) == {}
