"""A training that a signal or an error stopped anywhere, and was continued, equals one that was not, bit for bit."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from runs import assert_same_runs, lines, signal_after, status
from tiny import TINY, changed

from medcalib.config import RunConfig, load
from medcalib.config.bundled import bundled
from medcalib.engine import train as module
from medcalib.engine import validate as validation
from medcalib.engine.checkpoint import Checkpoints
from medcalib.engine.run import load_model
from medcalib.engine.train import train
from medcalib.errors import CheckpointError, ConfigError, PreemptedError

SHORT = ("train.epochs=2", "train.validate_every=1", "model.dropout=0.2")


def config_of(phantom: Path, *overrides: str) -> RunConfig:
    return load(bundled()["phantom"], data=str(phantom), overrides=(*TINY, *SHORT, *overrides))


@pytest.fixture(scope="module")
def straight(phantom: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = tmp_path_factory.mktemp("straight") / "run"
    train(config_of(phantom), run)
    return run


@pytest.mark.fault(61)
@pytest.mark.parametrize("steps", [0, 1, 2, 3, 5])
def test_preempted_in_any_step(
    phantom: Path, straight: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, steps: int
) -> None:
    """Of 2 x 3 steps: within an epoch, at its end (before validation), in the last step of all."""
    run = tmp_path / "run"
    with monkeypatch.context() as patch:
        signal_after(steps, patch)
        with pytest.raises(
            PreemptedError, match=rf"SIGUSR1: stopped after step {steps % 3 + 1} of epoch {steps // 3 + 1}"
        ):
            train(config_of(phantom), run)
    assert status(run) == "preempted"
    assert len(lines(run)) == steps // 3
    torch.manual_seed(99)  # what happened in between must not matter
    train(config_of(phantom), run, resume=True)
    assert status(run) == "finished"
    assert_same_runs(straight, run)


LEARNING = {
    "sums of a multiplier": ("loss=crac", "train.multipliers=train"),
    "kept confidences": ("loss=adafocal", "train.multipliers=train"),
    "a schedule": ("loss={name: mbls, schedule: add, schedule_rate: 1.0}",),
    "accumulated batches": ("loss=cals_alm", "train.multipliers=train", "train.accumulate=2"),
    "loader workers": ("train.workers=2",),
}


@pytest.mark.fault(61)
@pytest.mark.parametrize("what", LEARNING)
def test_preempted_within_an_epoch_nothing_is_forgotten(
    phantom: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    config = config_of(phantom, *LEARNING[what])
    train(config, tmp_path / "straight")
    with monkeypatch.context() as patch:
        signal_after(4, patch)
        with pytest.raises(PreemptedError):
            train(config, tmp_path / "stopped")
    train(config, tmp_path / "stopped", resume=True)
    assert_same_runs(tmp_path / "straight", tmp_path / "stopped")


@pytest.mark.fault(61)
@pytest.mark.parametrize("loss", ["ce", "cals_hr"])
def test_preempted_in_validation(phantom: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, loss: str) -> None:
    """Between two cases: what was observed is forgotten, and observed again; no step is done twice."""
    config = config_of(phantom, f"loss={loss}")
    train(config, tmp_path / "straight")
    with monkeypatch.context() as patch:
        steps: list[int] = []
        signal_after_call(validation, "window_logits", 6, patch)
        with pytest.raises(PreemptedError, match="stopped after step 3 of epoch 2"):
            train(config, tmp_path / "stopped")
        original = module._step
        patch.setattr(module, "_step", lambda *args: steps.append(1) or original(*args))
        train(config, tmp_path / "stopped", resume=True)
    assert steps == []
    assert_same_runs(tmp_path / "straight", tmp_path / "stopped")


def signal_after_call(where: Any, name: str, calls: int, patch: pytest.MonkeyPatch) -> None:
    patch.setattr(module, name, getattr(where, name), raising=False)
    signal_after(calls - 1, patch, name=name)
    patch.setattr(where, name, getattr(module, name))


@pytest.mark.fault(61)
def test_a_crash_costs_no_more_than_checkpoint_steps(
    phantom: Path, straight: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = changed(config_of(phantom), checkpoint_steps=2)
    original, steps = module._step, []

    def crashing(*args: Any) -> Any:
        steps.append(1)
        if len(steps) == 6:
            raise MemoryError("a crash in the last step")
        return original(*args)

    with monkeypatch.context() as patch:
        patch.setattr(module, "_step", crashing)
        with pytest.raises(MemoryError):
            train(config, tmp_path / "run")
        assert status(tmp_path / "run") == "failed"
        train(config, tmp_path / "run", resume=True)
    assert len(steps) == 7  # only the sixth was taken again
    assert_same_runs(straight, tmp_path / "run")


def test_a_run_of_an_earlier_version_is_continued(phantom: Path, straight: Path, tmp_path: Path) -> None:
    """Its checkpoints know neither steps nor ranks, its config none of the newer keys."""
    run = tmp_path / "run"
    train(changed(config_of(phantom), epochs=1), run)
    checkpoints = Checkpoints(run)
    saved = checkpoints.load_last()
    for key in ("progress", "ranks", "batches_per_step", "totals"):
        del saved[key]
    checkpoints.save_last(saved, 1)
    text = (run / "config.yaml").read_text().replace("epochs: 1", "epochs: 2")
    for key in ("accumulate: 1", "checkpoint_steps: null", "trackers: []", "rank_timeout_s: 1800.0"):
        assert key in text
        text = text.replace(f" {key},", "").replace(f"  {key}\n", "")
    (run / "config.yaml").write_text(text)
    (run / "status.json").unlink()
    train(config_of(phantom), run, resume=True)
    assert [line["epoch"] for line in lines(run)] == [1, 2]
    assert status(run) == "finished"


OTHERS = {
    "model.num_res_units=1": r"model\.num_res_units: the run has 0, now 1",
    "model={name: segresnet, init_filters: 8, blocks_down: [1, 1], blocks_up: [1]}": r"model\.name: the run has 'unet'",
    "data.labels={background: 0, RV: 1, heart: [2, 3]}": r"data\.labels\.LV: the run has \(3,\), now None",
    "loss=mbls": r"loss\.name: the run has 'ce', now 'mbls'",
    "train.batch_size=3": r"train\.batch_size: the run has 2, now 3",
}


@pytest.mark.fault(60)
@pytest.mark.parametrize("override", OTHERS)
def test_another_config_is_refused_with_what_differs(phantom: Path, straight: Path, override: str) -> None:
    """A network, classes, a loss: nothing in the run folder is touched."""
    before = {path: path.read_bytes() for path in straight.rglob("*") if path.is_file()}
    with pytest.raises(ConfigError, match=rf"(?s)was started with another config:.*{OTHERS[override]}"):
        train(config_of(phantom, override), straight, resume=True)
    assert {path: path.read_bytes() for path in straight.rglob("*") if path.is_file()} == before


@pytest.mark.fault(60)
def test_a_checkpoint_of_another_number_of_classes_is_refused_with_the_keys(
    phantom: Path, straight: Path, tmp_path: Path
) -> None:
    config, run = config_of(phantom, "data.labels={background: 0, RV: 1, heart: [2, 3]}"), tmp_path / "run"
    train(changed(config, epochs=1), run)
    Checkpoints(run).save_last(Checkpoints(straight).load_last(), 2)  # whole, and of four classes
    with pytest.raises(CheckpointError, match=r"(?s)does not fit this config: .*size mismatch for model\S*weight"):
        train(changed(config, epochs=1), run, resume=True)
    with pytest.raises(CheckpointError, match=r"(?s)weights do not fit the network .*size mismatch for model\S*weight"):
        load_model(run, config, torch.device("cpu"), "last")


@pytest.mark.fault(58)
def test_a_damaged_newest_checkpoint_costs_time_and_no_bit(
    phantom: Path, straight: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    run = tmp_path / "run"
    with monkeypatch.context() as patch:
        signal_after(4, patch)
        with pytest.raises(PreemptedError):
            train(config_of(phantom), run)
    newest = run / "checkpoints" / Checkpoints(run).manifest["last"][0]["file"]
    newest.write_bytes(newest.read_bytes()[:-1])
    train(config_of(phantom), run, resume=True)
    assert f"{newest} is damaged" in caplog.text
    assert "trying the one before" in caplog.text
    assert_same_runs(straight, run)


@pytest.mark.fault(60)
def test_a_checkpoint_of_another_network_is_refused_with_the_keys(phantom: Path, tmp_path: Path) -> None:
    config = changed(config_of(phantom), epochs=1)
    train(config, tmp_path / "small")
    deeper = load(
        bundled()["phantom"], data=str(phantom), overrides=[*TINY, *SHORT, "train.epochs=1", "model.num_res_units=1"]
    )
    with pytest.raises(ConfigError, match=r"model\.num_res_units: the run has 0, now 1"):
        train(deeper, tmp_path / "small", resume=True)
    checkpoints = Checkpoints(tmp_path / "small")
    saved = checkpoints.load_last()
    train(deeper, tmp_path / "deep")
    Checkpoints(tmp_path / "deep").save_last(saved | {"epoch": 2}, 2)  # whole, and of the wrong network
    with pytest.raises(CheckpointError, match=r"(?s)does not fit this config: .*Missing key.*Unexpected key"):
        train(deeper, tmp_path / "deep", resume=True)


@pytest.mark.fault(71)
def test_the_batches_of_a_step_must_stay(phantom: Path, tmp_path: Path) -> None:
    train(changed(config_of(phantom), epochs=1), tmp_path / "run")
    with pytest.raises(CheckpointError, match=r"from 1 batches .* now it would be 2.* the product is 1"):
        train(changed(config_of(phantom), epochs=1, accumulate=2), tmp_path / "run", resume=True)


def test_accumulated_batches_make_the_step_of_one_large_batch(phantom: Path, tmp_path: Path) -> None:
    """The same patches; cross-entropy is a mean over voxels, all of them valid here, so that only rounding differs."""
    plain = ("model.dropout=0", "train.epochs=1", "train.optimizer=sgd", "train.lr=0.1", "train.clip_norm=null")
    train(config_of(phantom, *plain, "train.batch_size=4"), tmp_path / "large")
    train(config_of(phantom, *plain, "train.accumulate=2"), tmp_path / "accumulated")
    large, accumulated = (Checkpoints(tmp_path / run).load_last()["model"] for run in ("large", "accumulated"))
    for key, value in large.items():
        torch.testing.assert_close(accumulated[key], value, rtol=1e-4, atol=1e-6)
    losses = [json.loads((tmp_path / run / "metrics.jsonl").read_text())["loss"] for run in ("large", "accumulated")]
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)
