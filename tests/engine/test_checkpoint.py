"""Checkpoints: a damaged one is noticed and replaced by its predecessor, a malicious one never runs."""

from __future__ import annotations

import os
import pickle
import random
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from runs import forked, temporary_files

from medcalib.engine.checkpoint import Checkpoints
from medcalib.errors import CheckpointError


def state(epoch: int) -> dict[str, Any]:
    return {"model": {"w": torch.full((1000,), float(epoch))}, "epoch": epoch}


@pytest.fixture
def run(tmp_path: Path) -> Path:
    checkpoints = Checkpoints(tmp_path)
    for epoch in (1, 2, 3):
        checkpoints.save_last(state(epoch), epoch)
    return tmp_path


def test_the_last_two_are_kept(run: Path) -> None:
    assert sorted(p.name for p in (run / "checkpoints").iterdir()) == ["epoch-00002.pt", "epoch-00003.pt"]
    assert Checkpoints(run).load_last()["epoch"] == 3


@pytest.mark.fault(58)
@pytest.mark.parametrize("damage", ["flip", "cut", "delete", "empty"])
def test_a_damaged_checkpoint_falls_back_and_says_so(run: Path, damage: str, caplog: pytest.LogCaptureFixture) -> None:
    path = run / "checkpoints" / "epoch-00003.pt"
    raw = bytearray(path.read_bytes())
    raw[len(raw) // 2] ^= 1
    changes = {"flip": bytes(raw), "cut": bytes(raw[:-100]), "empty": b"", "delete": None}
    content = changes[damage]
    path.unlink() if content is None else path.write_bytes(content)
    assert Checkpoints(run).load_last()["epoch"] == 2
    assert ("is missing, but" if content is None else "is damaged") in caplog.text


def flipped(raw: bytes, rng: random.Random) -> bytes:
    """Another value of one random bit."""
    changed = bytearray(raw)
    changed[rng.randrange(len(raw))] ^= 1 << rng.randrange(8)
    return bytes(changed)


def cut(raw: bytes, rng: random.Random) -> bytes:
    """Ends at a random place; at least one byte is missing."""
    return raw[: rng.randrange(len(raw))]


@pytest.mark.fault(58)
@pytest.mark.parametrize("damaged", [flipped, cut])
def test_damage_at_200_random_places_is_never_read(
    run: Path, damaged: Any, caplog: pytest.LogCaptureFixture, record_property: Any
) -> None:
    checkpoints, rng = Checkpoints(run), random.Random(58)  # noqa: S311
    path = run / "checkpoints" / "epoch-00003.pt"
    raw, wrong = path.read_bytes(), 0
    for _ in range(200):
        path.write_bytes(damaged(raw, rng))
        read, entry = checkpoints.load_newest()
        wrong += not (entry["epoch"] == read["epoch"] == 2 and bool((read["model"]["w"] == 2).all()))
    told = caplog.text.count("epoch-00003.pt is damaged")
    assert (wrong, told) == (0, 200)
    path.write_bytes(raw)
    assert checkpoints.load_last()["epoch"] == 3
    record_property("measured", f"{damaged.__name__} at 200 places: {told} refused by name, {wrong} read wrongly")


@pytest.mark.fault(58)
@pytest.mark.parametrize("damaged", [flipped, cut])
def test_damage_at_200_random_places_of_the_manifest_is_never_believed(
    run: Path, damaged: Any, record_property: Any
) -> None:
    """The manifest is refused, or an entry is; what is read is whole, and of the epoch that its entry says."""
    Checkpoints(run).save_best(state(2), 2, 0.5)
    path, rng = run / "manifest.json", random.Random(59)  # noqa: S311
    raw, right, refused = path.read_bytes(), 0, 0
    for _ in range(200):
        path.write_bytes(damaged(raw, rng))
        for load in (Checkpoints.load_newest, Checkpoints.load_best):
            try:
                read, entry = load(Checkpoints(run))
            except CheckpointError:
                refused += 1
                continue
            assert read["epoch"] == entry["epoch"] >= 2
            assert bool((read["model"]["w"] == read["epoch"]).all())
            right += 1
    record_property("measured", f"manifest {damaged.__name__} at 200 places: {refused} of 400 refused, {right} right")


@pytest.mark.fault(58)
def test_without_a_whole_checkpoint_it_is_refused(run: Path) -> None:
    for path in (run / "checkpoints").iterdir():
        path.write_bytes(b"x")
    with pytest.raises(CheckpointError, match="no whole checkpoint"):
        Checkpoints(run).load_last()
    with pytest.raises(CheckpointError, match="no best checkpoint"):
        Checkpoints(run).load_best()


class Canary:
    """Unpickling this would make a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return (os.mkdir, (str(self.path),))


_SAVE = torch.save


def legacy(value: Any, path: Path) -> None:
    """The format before torch 1.6."""
    _SAVE(value, path, _use_new_zipfile_serialization=False)


def bare(value: Any, path: Path) -> None:
    """A pickle and nothing around it."""
    path.write_bytes(pickle.dumps(value, protocol=2))


@pytest.mark.fault(59)
@pytest.mark.parametrize("kind", ["best", "last"])
@pytest.mark.parametrize("written", [torch.save, legacy, bare])
def test_a_malicious_checkpoint_is_not_executed(tmp_path: Path, kind: str, written: Any, monkeypatch: Any) -> None:
    """Even one that the manifest vouches for, in each format that torch reads."""
    checkpoints = Checkpoints(tmp_path)
    monkeypatch.setattr(torch, "save", written)
    evil = {"model": Canary(tmp_path / "canary"), "epoch": 1}
    checkpoints.save_best(evil, 1, 0.5)
    checkpoints.save_last(evil, 1)
    read, words = {
        "best": (checkpoints.load_best, "cannot be loaded"),
        "last": (checkpoints.load_last, "no whole checkpoint"),
    }[kind]
    with pytest.raises(CheckpointError, match=words):
        read()
    assert not (tmp_path / "canary").exists()


@pytest.mark.fault(59)
def test_the_malicious_checkpoint_of_these_tests_would_run(tmp_path: Path) -> None:
    """Unpickled carelessly it makes its file: its absence above means something."""
    torch.save(Canary(tmp_path / "canary"), tmp_path / "evil.pt")
    torch.load(tmp_path / "evil.pt", weights_only=False)
    assert (tmp_path / "canary").exists()


@pytest.mark.fault(16)
def test_a_manifest_cannot_point_out_of_the_folder(run: Path) -> None:
    outside = run.parent / "outside.pt"
    torch.save(state(9), outside)
    checkpoints = Checkpoints(run)
    checkpoints.manifest["last"] = [{"file": f"../../{outside.name}", "sha256": "0", "epoch": 9}]
    with pytest.raises(CheckpointError):
        checkpoints.load_last()


@pytest.mark.fault(58)
def test_a_broken_manifest_is_refused(run: Path) -> None:
    (run / "manifest.json").write_text("{")
    with pytest.raises(CheckpointError, match=r"manifest\.json"):
        Checkpoints(run)


@pytest.mark.fault(68)
def test_a_full_disk_leaves_the_old_checkpoint(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*args: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(torch, "save", full)
    with pytest.raises(CheckpointError, match="No space left"):
        Checkpoints(run).save_last(state(4), 4)
    monkeypatch.undo()
    assert Checkpoints(run).load_last()["epoch"] == 3
    assert temporary_files(run) == []


def saving(run: Path) -> None:
    """Until it is killed."""
    checkpoints, epoch = Checkpoints(run), 0
    while True:
        epoch += 1
        checkpoints.save_last({"model": {"w": torch.full((200000,), float(epoch))}, "epoch": epoch}, epoch)


@pytest.mark.fault(57)
def test_killed_while_saving_the_last_good_checkpoint_loads(tmp_path: Path, record_property: Any) -> None:
    halves, kills = 0, 20
    for number in range(kills):
        run = tmp_path / str(number)
        run.mkdir()
        process = forked(saving, run)
        while not (run / "manifest.json").exists():
            time.sleep(0.001)
        time.sleep(0.0017 * number)
        process.kill()
        process.join()
        saved = Checkpoints(run).load_last()
        assert (saved["model"]["w"] == saved["epoch"]).all()
        halves += len(temporary_files(run))
        Checkpoints(run).remove_abandoned()
        assert temporary_files(run) == []
    record_property(
        "measured", f"{kills} kills in the middle of saving: {kills} load, {halves} half-written files left, 0 stay"
    )


def test_checkpoints_within_an_epoch_come_after_its_beginning(run: Path) -> None:
    checkpoints = Checkpoints(run)
    checkpoints.save_last(state(3), 3, 12)
    assert [(e["epoch"], e["step"]) for e in checkpoints.manifest["last"]] == [(3, 12), (3, 0)]
    checkpoints.save_last(state(4), 4)
    assert [e["file"] for e in checkpoints.manifest["last"]] == ["epoch-00004.pt", "epoch-00003-step-000012.pt"]
    assert sorted(p.name for p in (run / "checkpoints").iterdir()) == sorted(
        entry["file"] for entry in checkpoints.manifest["last"]
    )


@pytest.mark.fault(57)
def test_what_a_killed_process_left_half_written_is_removed(run: Path) -> None:
    (run / "checkpoints" / ".tmp-abc-epoch-00004.pt").write_bytes(b"half")
    (run / ".tmp-abc-manifest.json").write_bytes(b"half")
    Checkpoints(run).remove_abandoned()
    assert temporary_files(run) == []
    assert Checkpoints(run).load_last()["epoch"] == 3


def test_a_folder_that_cannot_be_made_is_told_as_such(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path / "file" / "run")
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(CheckpointError, match=r"epoch-00001\.pt cannot be written: .*Not a directory"):
        checkpoints.save_last({"epoch": 1}, 1, 0)
