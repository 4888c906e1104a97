"""Whoever follows a run gets each line once, no names of patients or places, and can end nothing."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from runs import lines, signal_after, status
from tiny import TINY, changed

from medcalib import cli
from medcalib.config import RunConfig, load
from medcalib.config.bundled import bundled
from medcalib.engine import tracking
from medcalib.engine.trackers.numbers import flat, numbers
from medcalib.engine.tracking import Trackers, shareable
from medcalib.engine.train import train
from medcalib.errors import MissingExtraError, PreemptedError


class Follower:
    """Notes every call; fails while `failing` says so."""

    def __init__(self, failing: str = "") -> None:
        self.calls: list[tuple[str, Any]] = []
        self.failing = failing

    def _note(self, name: str, what: Any) -> None:
        if name in self.failing.split():
            raise ConnectionError("the network is gone")
        self.calls.append((name, what))

    def start(self, config: Mapping[str, Any], provenance: Mapping[str, Any]) -> None:
        self._note("start", (config, provenance))

    def log(self, line: Mapping[str, Any], step: int) -> None:
        self._note("log", (dict(line), step))

    def finish(self, status: str) -> None:
        self._note("finish", status)


def preempted_and_continued(config: RunConfig, run: Path, follower: Follower | None = None) -> None:
    followers = [follower] if follower else []
    with pytest.MonkeyPatch.context() as patch:
        signal_after(4, patch)
        with pytest.raises(PreemptedError):
            train(config, run, followers=followers)
    train(config, run, resume=True, followers=followers)


def test_a_follower_is_told_start_lines_and_end_in_order(tiny: RunConfig, tmp_path: Path) -> None:
    follower = Follower()
    preempted_and_continued(tiny, tmp_path / "run", follower)
    assert [name for name, _ in follower.calls] == ["start", "log", "finish", "start", "log", "log", "finish"]
    told = [what for name, what in follower.calls if name == "log"]
    assert [step for _, step in told] == [1, 2, 3]
    assert [{k: v for k, v in line.items() if k != "seconds"} for line, _ in told] == lines(tmp_path / "run")
    assert [what for name, what in follower.calls if name == "finish"] == ["preempted", "finished"]
    config, provenance = follower.calls[3][1]
    assert (config["name"], provenance["starts"], provenance["from"]) == ("phantom", 2, {"epoch": 1, "step": 2})


def test_no_failure_of_a_follower_ends_the_training(
    tiny: RunConfig, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    train(tiny, tmp_path / "run", followers=[Follower("start log finish")])
    assert (status(tmp_path / "run"), len(lines(tmp_path / "run"))) == ("finished", 3)
    told = [record.message for record in caplog.records if "the network is gone" in record.message]
    assert told == ["Follower cannot follow the run, which goes on: ConnectionError: the network is gone"]
    assert sum("Follower failed" in record.message for record in caplog.records) == 1


def test_what_failed_is_sent_later_in_order(caplog: pytest.LogCaptureFixture) -> None:
    follower = Follower("log")
    trackers = Trackers([follower])
    trackers.start({}, {})
    for epoch in (1, 2, 3):
        trackers.log({"epoch": epoch}, epoch)
    follower.failing = ""
    for epoch in range(4, 40):
        trackers.log({"epoch": epoch}, epoch)
    assert [what[1] for name, what in follower.calls if name == "log"] == list(range(1, 40))
    trackers.finish("finished")
    assert caplog.records[-1].message.startswith("Follower failed 2 times, and has caught up")


def test_a_service_that_is_gone_for_long_is_asked_ever_less_often(caplog: pytest.LogCaptureFixture) -> None:
    """Each try may cost minutes of timeouts."""
    follower, tries = Follower(), []
    follower.log = lambda _, step: tries.append(step) or 1 / 0  # type: ignore[method-assign]
    trackers = Trackers([follower])
    for epoch in range(1, 101):
        trackers.log({}, epoch)
    assert len(tries) == 1 + 1 + 1 + 1 + 1 + 1 + 2  # after 0, 1, 3, 7, 15, 31, 32 and 32 lines without a try
    trackers.finish("finished")
    assert "100 calls did not reach it" in caplog.records[-1].message


def test_one_that_fails_does_not_keep_the_others_from_their_lines(caplog: pytest.LogCaptureFixture) -> None:
    broken, sound = Follower("start log finish"), Follower()
    trackers = Trackers([broken, sound])
    trackers.start({}, {})
    trackers.log({}, 1)
    trackers.finish("failed")
    assert [name for name, _ in sound.calls] == ["start", "log", "finish"]


@pytest.mark.fault(74)
@pytest.mark.parametrize("name", ["tensorboard", "wandb", "mlflow"])
def test_without_the_extra_it_is_refused_before_anything_is_read(
    tiny: RunConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setattr(tracking, "find_spec", lambda _: None)
    monkeypatch.setattr("medcalib.engine.train._split", lambda *_: pytest.fail("data were read"))
    with pytest.raises(MissingExtraError, match=rf'pip install "medcalib\[{name}\]"'):
        train(changed(tiny, trackers=(name,)), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_folder_of_that_name_is_no_package(tiny: RunConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """W&B itself makes folders called wandb."""
    (tmp_path / "medcalib_no_such_service").mkdir()
    monkeypatch.syspath_prepend(tmp_path)
    config = changed(tiny, trackers=("medcalib_no_such_service",))
    with pytest.raises(MissingExtraError):
        tracking.wanted(config, tmp_path)


def test_nothing_is_imported_that_nobody_wants(
    tiny: RunConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("wandb", "mlflow", "tensorboard"):
        monkeypatch.setitem(__import__("sys").modules, name, None)  # an import would raise
    train(changed(tiny, epochs=1), tmp_path / "run")
    assert not (tmp_path / "run" / "tensorboard").exists()
    assert not (tmp_path / "run" / "trackers.json").exists()


def test_an_earlier_config_means_the_same(phantom: Path) -> None:
    for value, meant in (("true", ("tensorboard",)), ("false", ())):
        config = load(bundled()["phantom"], data=str(phantom), overrides=[*TINY, f"train.tensorboard={value}"])
        assert config.train.trackers == meant


def test_what_is_shared_names_neither_places_nor_patients(tmp_path: Path) -> None:
    (tmp_path / "c.yaml").write_text(
        "name: trial\ndata:\n  root: /secret/root\n  exclude: [secret_1]\n"
        "  layout: {name: brats, label_files: {secret_2: secret_2_seg_v2}}\n  convention: brats2023\n"
        "  labels: {background: 0, NCR: 1, ED: 2, ET: 3}\n"
        "split: {name: listed, train: [secret_3], val: [secret_4], test: [secret_5]}\n"
        "train: {patch_size: [8, 8, 8], lr: 0.25}\n"
    )
    shared = shareable(load(tmp_path / "c.yaml"))
    assert "secret" not in json.dumps(shared)
    assert shared["data"]["layout"] == "brats"
    assert shared["data"]["labels"] == {"background": [0], "NCR": [1], "ED": [2], "ET": [3]}
    assert shared["split"] == {"name": "listed"}
    assert shared["train"]["lr"] == 0.25
    assert flat(shared)["train.lr"] == 0.25


def test_numbers_of_a_line() -> None:
    crac = {"names": ["boundary/RV", "interior/RV"], "lam": [0.5, None], "rho": [1.0, 2.0]}
    line = {"epoch": 3, "loss": 1.5, "parts": {"ce": 1.0}, "val_dice": None, "word": "x", "flag": True}
    assert numbers(line | {"multipliers": {"crac": crac}}) == {
        "loss": 1.5,
        "parts/ce": 1.0,
        "multipliers/crac/lam/boundary/RV": 0.5,
        "multipliers/crac/rho/boundary/RV": 1.0,
        "multipliers/crac/rho/interior/RV": 2.0,
    }


def test_tensorboard_holds_each_epoch_once(tiny: RunConfig, tmp_path: Path) -> None:
    reader = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    config, run = changed(tiny, trackers=("tensorboard",)), tmp_path / "run"
    preempted_and_continued(config, run)
    found = reader.EventAccumulator(str(run / "tensorboard")).Reload()
    drawn = [(event.step, event.value) for event in found.Scalars("parts/cross_entropy")]
    wanted = [(line["epoch"], line["parts"]["cross_entropy"]) for line in lines(run)]
    assert drawn == [(epoch, pytest.approx(value, rel=1e-6)) for epoch, value in wanted]  # stored in float32
    assert [event.step for event in found.Scalars("val_dice")] == [2, 3]


def test_the_command_line_lets_the_page_follow(
    tiny: RunConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("medcalib.cli.load_config", lambda *_: changed(tiny, epochs=2))
    cli.train("phantom", tmp_path / "run")
    page = (tmp_path / "run" / "progress.html").read_text(encoding="utf-8")
    assert "phantom: finished" in page
    assert "<dd>2 of 2</dd>" in page
    assert str(tmp_path) not in page
