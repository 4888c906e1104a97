"""Scoring in parts, again, and in several processes gives the bytes of one undisturbed run."""

from __future__ import annotations

import errno
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import IO

import numpy as np
import pytest
from flat import BAD, SCORES, UNPREDICTED, contents, write_flat
from helpers import LPS

from medcalib.data.nifti import read_volume, write_volume
from medcalib.engine.evaluate import evaluate
from medcalib.engine.score_job import Job, Outcome, score_pair
from medcalib.engine.shards import Shard
from medcalib.errors import ConfigError, RefusedError
from medcalib.metrics import CaseScores

GOOD = [f"case_{k}" for k in range(8) if f"case_{k}" not in (BAD, UNPREDICTED)]


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, Path]:
    """Predictions, labels and the scores of one run over them; nobody may change them."""
    folder = tmp_path_factory.mktemp("flat")
    predictions, labels = write_flat(folder)
    evaluate(predictions, labels, folder / "scores")
    return predictions, labels, folder / "scores"


@pytest.fixture
def own(shared: tuple[Path, Path, Path], tmp_path: Path) -> tuple[Path, Path, Path]:
    """A copy of the same that a test may change."""
    for path in shared:
        shutil.copytree(path, tmp_path / path.name)
    return tmp_path / "predictions", tmp_path / "labels", tmp_path / "scores"


@pytest.fixture
def scored_now(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The cases that a run in this process scores, not reuses, in order."""
    seen: list[str] = []

    def watched(job: Job) -> Outcome:
        outcome = score_pair(job)
        if outcome.refusal is None and not outcome.reused:
            seen.append(outcome.case)
        return outcome

    monkeypatch.setattr("medcalib.engine.evaluate.score_pair", watched)
    return seen


def command(*arguments: object, hash_seed: int = 0) -> list[str]:
    os.environ["PYTHONHASHSEED"] = str(hash_seed)
    return [sys.executable, "-m", "medcalib", *map(str, arguments)]


def test_what_a_run_says(shared: tuple[Path, Path, Path]) -> None:
    found = json.loads((shared[2] / SCORES).read_text())
    assert (found["n_expected"], found["n_scored"], list(found["cases"])) == (8, 6, GOOD)
    assert [(entry["case"], entry["reason"]) for entry in found["refused"]] == [
        (BAD, "damaged_gzip"),
        (UNPREDICTED, "missing_prediction"),
    ]
    assert found["score"]["bins"] == 15


def test_inputs_are_hashes_by_role_and_no_path(shared: tuple[Path, Path, Path]) -> None:
    inputs = CaseScores.load(shared[2] / f"{GOOD[0]}.npz").inputs
    assert set(inputs) == {"prediction", "label", "settings"}
    assert all(len(value) == 64 and int(value, 16) for value in inputs.values())
    other = CaseScores.load(shared[2] / f"{GOOD[1]}.npz").inputs
    assert all(inputs[key] != other[key] for key in inputs)


def test_a_second_run_scores_nothing_and_changes_no_byte(own: tuple[Path, Path, Path], scored_now: list[str]) -> None:
    before = contents(own[2])
    evaluate(*own)
    assert scored_now == []
    assert contents(own[2]) == before
    evaluate(*own, fresh=True)
    assert scored_now == GOOD
    assert contents(own[2]) == before


def test_reuse_is_logged(own: tuple[Path, Path, Path], caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level("INFO"):
        evaluate(*own)
    assert "reused 6 finished cases of 7" in caplog.text


def change_label(predictions: Path, labels: Path, scores: Path) -> None:
    volume = read_volume(labels / f"{GOOD[1]}.nii.gz", dtype=np.uint8)
    volume.array[0, 0, 0] = (volume.array[0, 0, 0] + 1) % 3
    write_volume(labels / f"{GOOD[1]}.nii.gz", volume.array, LPS)


def change_prediction(predictions: Path, labels: Path, scores: Path) -> None:
    shutil.copy(predictions / f"{GOOD[0]}.nii.gz", predictions / f"{GOOD[1]}.nii.gz")


def change_sidecar(predictions: Path, labels: Path, scores: Path) -> None:
    path = predictions / f"{GOOD[1]}.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "note": "new"}))


def damage_scores(predictions: Path, labels: Path, scores: Path) -> None:
    path = scores / f"{GOOD[1]}.npz"
    path.write_bytes(path.read_bytes()[:-40])


def exchange_scores(predictions: Path, labels: Path, scores: Path) -> None:
    shutil.copy(scores / f"{GOOD[0]}.npz", scores / f"{GOOD[1]}.npz")


def link_scores(predictions: Path, labels: Path, scores: Path) -> None:
    path = scores / f"{GOOD[1]}.npz"
    path.symlink_to(path.rename(predictions.parent / "elsewhere.npz"))


CHANGES = [change_label, change_prediction, change_sidecar, damage_scores, exchange_scores, link_scores]


@pytest.mark.parametrize("change", CHANGES)
def test_only_what_changed_is_scored_again(
    own: tuple[Path, Path, Path], scored_now: list[str], change: Callable[[Path, Path, Path], None], tmp_path: Path
) -> None:
    change(*own)
    evaluate(*own)
    assert scored_now == [GOOD[1]]
    evaluate(*own[:2], tmp_path / "undisturbed")
    assert contents(own[2]) == contents(tmp_path / "undisturbed")
    assert not (own[2] / f"{GOOD[1]}.npz").is_symlink()


def test_another_version_scores_again(
    own: tuple[Path, Path, Path], scored_now: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("medcalib.__version__", "99")
    evaluate(*own)
    assert scored_now == GOOD


def test_a_case_that_is_refused_now_loses_its_old_scores(own: tuple[Path, Path, Path]) -> None:
    (own[0] / f"{GOOD[1]}.nii.gz").write_bytes(b"no volume")
    found = evaluate(*own)
    assert {entry["case"] for entry in found["refused"]} == {BAD, UNPREDICTED, GOOD[1]}
    assert not (own[2] / f"{GOOD[1]}.npz").exists()


def killer(job: Job) -> Outcome:
    """Scores a case in a process that one of them always kills."""
    if job.pair.case.id == GOOD[2]:
        os.kill(os.getpid(), signal.SIGKILL)
    return score_pair(job)


def test_a_killed_worker_costs_its_case_only(
    shared: tuple[Path, Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("medcalib.engine.evaluate.score_pair", killer)
    found = evaluate(*shared[:2], tmp_path / "scores", workers=2)
    assert list(found["cases"]) == [name for name in GOOD if name != GOOD[2]]
    reasons = {entry["case"]: entry["reason"] for entry in found["refused"]}
    assert reasons == {BAD: "damaged_gzip", UNPREDICTED: "missing_prediction", GOOD[2]: "worker_died"}


def test_strict_ends_at_the_first_refusal_and_keeps_what_is_done(own: tuple[Path, Path, Path], tmp_path: Path) -> None:
    with pytest.raises(RefusedError, match=rf"^{UNPREDICTED}: .*\[missing_prediction\]$"):
        evaluate(*own[:2], tmp_path / "strict", strict=True)
    (own[1] / f"{UNPREDICTED}.nii.gz").unlink()
    with pytest.raises(RefusedError, match=rf"^{BAD}: .*\[damaged_gzip\]$"):
        evaluate(*own[:2], tmp_path / "strict", strict=True)
    assert set(contents(tmp_path / "strict")) == {"case_0.npz", "case_1.npz"}


def test_a_shard_writes_its_own_summary_and_replaces_stale_ones(
    shared: tuple[Path, Path, Path], tmp_path: Path
) -> None:
    out = tmp_path / "scores"
    for index in (1, 0):
        evaluate(*shared[:2], out, shard=Shard(index, 2))
    assert {path.name for path in out.glob("*.json")} == {"shard-0-of-2.json", "shard-1-of-2.json"}
    found = evaluate(*shared[:2], out, shard=Shard(1, 3))
    assert {path.name for path in out.glob("*.json")} == {"shard-1-of-3.json"}
    assert found == json.loads((out / "shard-1-of-3.json").read_text())
    assert (found["shard"], found["n_expected"], found["n_scored"]) == ("1/3", 3, 3)
    assert found["cases"] == ["case_1", "case_4", "case_7"]
    assert found["expected"] == [f"case_{k}" for k in range(8)]
    evaluate(*shared[:2], out)
    assert {path.name for path in out.glob("*.json")} == {SCORES}


def test_more_shards_than_cases_leave_empty_ones(shared: tuple[Path, Path, Path], tmp_path: Path) -> None:
    found = evaluate(*shared[:2], tmp_path / "scores", shard=Shard(11, 12))
    assert (found["n_expected"], found["cases"], found["refused"]) == (0, [], [])
    assert len(found["expected"]) == 8


def test_an_output_that_cannot_be_written_is_named_before_any_work(
    shared: tuple[Path, Path, Path], tmp_path: Path, scored_now: list[str]
) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match="cannot be a folder: it, or one above it, is a file"):
        evaluate(*shared[:2], tmp_path / "file" / "scores")
    if os.geteuid():  # permissions do not hold for root
        (tmp_path / "locked").mkdir(mode=0o500)
        with pytest.raises(PermissionError):
            evaluate(*shared[:2], tmp_path / "locked")
    assert scored_now == []


def test_temporary_files_of_killed_runs_are_removed_once_they_are_old(own: tuple[Path, Path, Path]) -> None:
    old, new = own[2] / ".tmp-0-a.npz", own[2] / ".tmp-1-b.npz"
    for path in (old, new):
        path.write_bytes(b"half")
    os.utime(old, (time.time() - 7200,) * 2)
    evaluate(*own)
    assert (old.exists(), new.exists()) == (False, True)


@pytest.mark.fault(77, 78)
def test_two_processes_in_one_folder_and_other_hash_seeds_change_nothing(
    shared: tuple[Path, Path, Path], tmp_path: Path
) -> None:
    pair = ["score", "--predictions", shared[0], "--labels", shared[1], "--out", tmp_path / "scores"]
    both = [subprocess.Popen(command(*pair, hash_seed=k), stdout=subprocess.DEVNULL) for k in (1, 2)]
    assert [process.wait(timeout=300) for process in both] == [4, 4]
    assert contents(tmp_path / "scores") == contents(shared[2])


@pytest.fixture(scope="module")
def slow(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, Path]:
    """Cases that take long enough to be stopped in the middle, and their scores."""
    folder = tmp_path_factory.mktemp("slow")
    predictions, labels = write_flat(folder, 9, (72, 64, 24))
    evaluate(predictions, labels, folder / "scores")
    return predictions, labels, folder / "scores"


def stopped(pair: list[object], out: Path, how: signal.Signals) -> tuple[int, str, list[int]]:
    """Start with two workers and send the signal after the first case: exit code, error text, the workers."""
    process = subprocess.Popen(
        command(*pair, "--out", out, "--workers", 2),
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # tests run in the background ignore it
    )
    limit = time.monotonic() + 240
    while not list(out.glob("case_*.npz")):
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < limit
        time.sleep(0.02)
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    if how == signal.SIGINT:
        os.killpg(process.pid, how)  # as a terminal does: everybody hears it
    else:
        os.kill(process.pid, how)
    _, error = process.communicate(timeout=240)
    return process.returncode, error, [int(pid) for pid in children]


def ended(pid: int) -> bool:
    limit = time.monotonic() + 60
    status = Path(f"/proc/{pid}/status")
    while status.exists() and "\nState:\tZ" not in status.read_text():
        if time.monotonic() > limit:
            return False
        time.sleep(0.05)
    return True


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="looks into /proc")
@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGKILL])
def test_a_stopped_run_leaves_finished_cases_and_nobody_behind(
    slow: tuple[Path, Path, Path], tmp_path: Path, how: signal.Signals
) -> None:
    out = tmp_path / "scores"
    pair: list[object] = ["score", "--predictions", slow[0], "--labels", slow[1]]
    code, error, workers = stopped(pair, out, how)
    assert workers
    assert all(ended(pid) for pid in workers)
    finished = contents(out)
    assert SCORES not in finished
    assert 1 <= len(finished) < 7
    assert finished.items() <= contents(slow[2]).items()
    if how == signal.SIGINT:
        assert (code, error) == (130, "interrupted\n")
    done = subprocess.run(command(*pair, "--out", out), capture_output=True, text=True, timeout=240, check=False)
    assert done.returncode == 4
    assert f"reused {len(finished)} finished cases of 8" in done.stderr
    assert contents(out) == contents(slow[2])


def test_a_full_disk_ends_the_run_and_leaves_what_was_there(
    own: tuple[Path, Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(stream: IO[bytes], **arrays: np.ndarray) -> None:
        stream.write(b"half")
        raise OSError(errno.ENOSPC, "No space left on device")

    before = contents(own[2])
    change_label(*own)
    monkeypatch.setattr("numpy.savez_compressed", full)
    with pytest.raises(OSError, match="No space left"):
        evaluate(*own)
    del before[SCORES]  # it would no longer be true
    assert contents(own[2]) == before
    assert not list(own[2].glob(".tmp-*"))
