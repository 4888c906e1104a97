"""Checkpoints: a damaged one is noticed and replaced by its predecessor, a malicious one never runs."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch

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


@pytest.mark.parametrize("damage", ["flip", "cut", "delete", "empty"])
def test_a_damaged_checkpoint_falls_back_and_says_so(run: Path, damage: str, caplog: pytest.LogCaptureFixture) -> None:
    path = run / "checkpoints" / "epoch-00003.pt"
    raw = bytearray(path.read_bytes())
    raw[len(raw) // 2] ^= 1
    changes = {"flip": bytes(raw), "cut": bytes(raw[:-100]), "empty": b"", "delete": None}
    content = changes[damage]
    path.unlink() if content is None else path.write_bytes(content)
    assert Checkpoints(run).load_last()["epoch"] == 2
    assert "missing or damaged" in caplog.text


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


def test_a_malicious_checkpoint_is_not_executed(tmp_path: Path) -> None:
    """Even one that the manifest vouches for."""
    checkpoints = Checkpoints(tmp_path)
    checkpoints.save_best({"model": Canary(tmp_path / "canary")}, 1, 0.5)
    with pytest.raises(CheckpointError, match="cannot be loaded"):
        checkpoints.load_best()
    assert not (tmp_path / "canary").exists()


@pytest.mark.fault(16)
def test_a_manifest_cannot_point_out_of_the_folder(run: Path) -> None:
    outside = run.parent / "outside.pt"
    torch.save(state(9), outside)
    checkpoints = Checkpoints(run)
    checkpoints.manifest["last"] = [{"file": f"../../{outside.name}", "sha256": "0", "epoch": 9}]
    with pytest.raises(CheckpointError):
        checkpoints.load_last()


def test_a_broken_manifest_is_refused(run: Path) -> None:
    (run / "manifest.json").write_text("{")
    with pytest.raises(CheckpointError, match=r"manifest\.json"):
        Checkpoints(run)


def test_a_full_disk_leaves_the_old_checkpoint(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*args: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(torch, "save", full)
    with pytest.raises(CheckpointError, match="No space left"):
        Checkpoints(run).save_last(state(4), 4)
    monkeypatch.undo()
    assert Checkpoints(run).load_last()["epoch"] == 3
    assert not list((run / "checkpoints").glob(".tmp-*"))


KILLED = """
import sys, torch
from pathlib import Path
from medcalib.engine.checkpoint import Checkpoints
checkpoints, epoch = Checkpoints(Path(sys.argv[1])), 0
print("ready", flush=True)
while True:
    epoch += 1
    checkpoints.save_last({"model": {"w": torch.full((200000,), float(epoch))}, "epoch": epoch}, epoch)
"""


@pytest.mark.parametrize("rounds", [3, pytest.param(20, marks=pytest.mark.slow)])
def test_killed_while_saving_the_last_good_checkpoint_loads(tmp_path: Path, rounds: int) -> None:
    for round_ in range(rounds):
        run = tmp_path / str(round_)
        run.mkdir()
        process = subprocess.Popen([sys.executable, "-c", KILLED, str(run)], stdout=subprocess.PIPE)
        assert process.stdout is not None
        process.stdout.readline()
        while not (run / "manifest.json").exists():
            time.sleep(0.005)
        time.sleep(0.02 + 0.017 * round_)
        process.send_signal(signal.SIGKILL)
        process.wait()
        saved = Checkpoints(run).load_last()
        assert (saved["model"]["w"] == saved["epoch"]).all()
        Checkpoints(run).remove_abandoned()
        assert not [*run.glob(".tmp-*"), *run.glob("*/.tmp-*")]


def test_checkpoints_within_an_epoch_come_after_its_beginning(run: Path) -> None:
    checkpoints = Checkpoints(run)
    checkpoints.save_last(state(3), 3, 12)
    assert [(e["epoch"], e["step"]) for e in checkpoints.manifest["last"]] == [(3, 12), (3, 0)]
    checkpoints.save_last(state(4), 4)
    assert [e["file"] for e in checkpoints.manifest["last"]] == ["epoch-00004.pt", "epoch-00003-step-000012.pt"]
    assert sorted(p.name for p in (run / "checkpoints").iterdir()) == sorted(
        entry["file"] for entry in checkpoints.manifest["last"]
    )


def test_what_a_killed_process_left_half_written_is_removed(run: Path) -> None:
    (run / "checkpoints" / ".tmp-abc-epoch-00004.pt").write_bytes(b"half")
    (run / ".tmp-abc-manifest.json").write_bytes(b"half")
    Checkpoints(run).remove_abandoned()
    assert not [*run.glob(".tmp-*"), *run.glob("*/.tmp-*")]
    assert Checkpoints(run).load_last()["epoch"] == 3
