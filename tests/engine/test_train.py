"""Training: exact resuming, seeds, what a run folder holds, and what is refused."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from runs import status, train_interrupted
from tiny import changed

from medcalib.config import RunConfig, load
from medcalib.config.bundled import bundled
from medcalib.distributed import resolve_device
from medcalib.engine.checkpoint import Checkpoints
from medcalib.engine.predict import predict
from medcalib.engine.train import train
from medcalib.errors import ConfigError, DataError, DataRefusedError, TrainingError
from medcalib.losses import Objective


def weights(run: Path) -> dict[str, torch.Tensor]:
    return Checkpoints(run).load_last()["model"]


def equal(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[key], b[key]) for key in a)


@pytest.mark.fault(61)
@pytest.mark.parametrize("epochs", [0, 1, 2])
@pytest.mark.parametrize("loss", ["ce", "mbls"])
def test_stop_and_resume_gives_the_same_bits_as_not_stopping(
    tiny: RunConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, epochs: int, loss: str
) -> None:
    overrides = {"loss": load(bundled()["phantom"], loss=loss).loss}
    config = changed(tiny.model_copy(update=overrides))
    straight = train(config, tmp_path / "straight")
    train_interrupted(3 * epochs + 1, config, tmp_path / "stopped", monkeypatch)
    assert status(tmp_path / "stopped") == "interrupted"
    torch.manual_seed(99)  # what happened in between must not matter
    resumed = train(config, tmp_path / "stopped", resume=True)
    assert equal(weights(tmp_path / "straight"), weights(tmp_path / "stopped"))
    assert {**resumed, "seconds": 0} == {**straight, "seconds": 0}
    lines = [(tmp_path / run / "metrics.jsonl").read_text().splitlines() for run in ("straight", "stopped")]
    assert [json.loads(line)["loss"] for line in lines[0]] == [json.loads(line)["loss"] for line in lines[1]]


@pytest.mark.fault(61)
@pytest.mark.parametrize("workers", [0, 2])
def test_dropout_resumes_exactly_too(
    tiny: RunConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, workers: int
) -> None:
    dropping = tiny.model_copy(update={"model": tiny.model.model_copy(update={"dropout": 0.3})})
    train(dropping, tmp_path / "straight")
    config = changed(dropping, workers=workers)
    train_interrupted(4, config, tmp_path / "stopped", monkeypatch)
    train(config, tmp_path / "stopped", resume=True)
    assert equal(weights(tmp_path / "straight"), weights(tmp_path / "stopped"))


def test_the_seed_and_nothing_else_decides(tiny: RunConfig, tmp_path: Path) -> None:
    train(tiny, tmp_path / "a")
    train(changed(tiny, workers=2, cache="none"), tmp_path / "b")
    train(changed(tiny, seed=1), tmp_path / "c")
    train(changed(tiny, workers=1, cache="disk", cache_dir=str(tmp_path / "cache")), tmp_path / "d")
    assert len(list((tmp_path / "cache").iterdir())) == 8  # of training and validation
    assert equal(weights(tmp_path / "a"), weights(tmp_path / "b"))
    assert equal(weights(tmp_path / "a"), weights(tmp_path / "d"))
    assert not equal(weights(tmp_path / "a"), weights(tmp_path / "c"))


def test_a_run_folder_says_everything(tiny: RunConfig, tmp_path: Path) -> None:
    run = tmp_path / "run"
    train(tiny, run)
    assert load(run / "config.yaml") == tiny
    split = json.loads((run / "split.json").read_text())
    assert {name: len(ids) for name, ids in split.items()} == {"train": 4, "val": 4, "test": 4}
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert [line["epoch"] for line in lines] == [1, 2, 3]
    assert [("val_dice" in line) for line in lines] == [False, True, True]
    manifest = json.loads((run / "manifest.json").read_text())
    assert status(run) == "finished"
    assert [entry["epoch"] for entry in manifest["last"]] == [3, 2]
    assert len(list((run / "checkpoints").iterdir())) == 3


def test_a_folder_with_a_run_is_not_overwritten(tiny: RunConfig, tmp_path: Path) -> None:
    train(changed(tiny, epochs=1), tmp_path / "run")
    with pytest.raises(ConfigError, match="already holds a run"):
        train(tiny, tmp_path / "run")
    with pytest.raises(ConfigError, match=r"train\.lr: the run has 0\.003, now 0\.1"):
        train(changed(tiny, epochs=1, lr=0.1), tmp_path / "run", resume=True)


def test_training_learns(tiny: RunConfig, tmp_path: Path) -> None:
    config = changed(tiny, epochs=6, steps_per_epoch=20, lr=1e-2)
    line = train(config, tmp_path / "run")
    first = json.loads((tmp_path / "run" / "metrics.jsonl").read_text().splitlines()[0])
    assert line["loss"] < 0.6 * first["loss"]
    assert line["val_dice"] > 0.3


@pytest.mark.fault(64)
def test_a_loss_that_is_not_finite_changes_nothing(
    tiny: RunConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One bad step is skipped and counted; bad steps without end stop the run with weights intact."""
    original, calls = Objective.parts, {"n": 0}

    def poisoned(self: Any, *args: Any, **options: Any) -> Any:
        parts = original(self, *args, **options)
        calls["n"] += 1
        bad = calls["n"] in bad_calls
        return {name: part * float("nan") if bad else part for name, part in parts.items()}

    monkeypatch.setattr(Objective, "parts", poisoned)
    bad_calls: Any = {2}
    train(changed(tiny, epochs=1), tmp_path / "one")
    line = json.loads((tmp_path / "one" / "metrics.jsonl").read_text())
    assert line["skipped_steps"] == 1
    assert all(value.isfinite().all() for value in weights(tmp_path / "one").values())
    calls["n"], bad_calls = 0, range(4, 1000)  # from the second epoch on; an epoch has fewer than 20 steps
    with pytest.raises(TrainingError, match="not finite in 20 steps in a row"):
        train(changed(tiny, epochs=30), tmp_path / "many")
    assert status(tmp_path / "many") == "failed"
    calls["n"], bad_calls = 0, ()
    train(changed(tiny, epochs=1), tmp_path / "good")
    last = Checkpoints(tmp_path / "many").load_last()
    assert last["epoch"] == 7  # 20 steps after the first epoch
    assert equal(last["model"], weights(tmp_path / "good"))


@pytest.mark.parametrize("precision", ["bf16"])
def test_reduced_precision_trains(tiny: RunConfig, tmp_path: Path, precision: str) -> None:
    line = train(changed(tiny, precision=precision, epochs=1), tmp_path / "run")
    assert 0 < line["loss"] < 3


def test_a_complete_run_that_is_resumed_returns_its_last_line(tiny: RunConfig, tmp_path: Path) -> None:
    line = train(tiny, tmp_path / "run")
    assert train(tiny, tmp_path / "run", resume=True) == line


def test_what_cannot_work_is_refused_before_anything_is_written(tiny: RunConfig, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="fp16 needs a CUDA device"):
        train(changed(tiny, precision="fp16", device="cpu"), tmp_path / "a")
    with pytest.raises(ConfigError, match="disk needs a folder; name it with --set train.cache_dir=DIR"):
        train(changed(tiny, cache="disk"), tmp_path / "d")
    with pytest.raises(ConfigError, match="train.cache_dir: /dev/null cannot be made"):
        train(changed(tiny, cache="disk", cache_dir="/dev/null"), tmp_path / "e")
    if not torch.cuda.is_available():
        with pytest.raises(ConfigError, match="'cuda' was asked for"):
            train(changed(tiny, device="cuda"), tmp_path / "b")
    with pytest.raises(DataRefusedError, match="data folder does not exist"):
        train(tiny.model_copy(update={"data": tiny.data.model_copy(update={"root": "/nowhere"})}), tmp_path / "c")
    assert not list(tmp_path.iterdir())


@pytest.mark.fault(70)
@pytest.mark.parametrize("device", ["gpu", "tpu", "cuda", "cuda:0", "cuda:x", "cpu:1", "CUDA", "mps"])
def test_a_device_that_is_not_there_is_refused(
    tiny: RunConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, device: str
) -> None:
    """The CPU never takes its place unasked: only `auto` may choose."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    with pytest.raises(ConfigError, match=f"device '{device}'.*(expected auto, cpu, cuda|sees 0 CUDA devices)"):
        train(changed(tiny, device=device), tmp_path / "run")
    assert not (tmp_path / "run").exists()
    assert resolve_device("auto") == torch.device("cpu")


@pytest.mark.fault(70)
def test_prediction_on_a_device_that_is_not_there_is_refused(
    tiny: RunConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    train(changed(tiny, epochs=1), tmp_path / "run")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    with pytest.raises(ConfigError, match="'cuda:1' was asked for, but torch sees 1 CUDA devices"):
        predict(tmp_path / "run", tmp_path / "predictions", device="cuda:1")
    assert not (tmp_path / "predictions").exists()


@pytest.mark.parametrize("cache", ["memory", "none"])
def test_a_damaged_training_volume_is_named(tiny: RunConfig, phantom: Path, tmp_path: Path, cache: str) -> None:
    data = Path(shutil.copytree(phantom, tmp_path / "data"))
    for image in (data / "training").rglob("*_frame01.nii.gz"):
        image.write_bytes(image.read_bytes()[:-20])
    moved = tiny.model_copy(update={"data": tiny.data.model_copy(update={"root": str(data)})})
    with pytest.raises(DataError, match="is damaged") as caught:
        train(changed(moved, cache=cache), tmp_path / "run")
    assert caught.value.reason == "damaged_gzip"
    if cache == "memory":  # else the file is first read when its patch is drawn
        assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("optimizer", ["adamw", "adam", "sgd"])
@pytest.mark.parametrize("schedule", ["cosine", "poly", "step", "constant"])
def test_schedules_and_optimizers(tiny: RunConfig, optimizer: str, schedule: str) -> None:
    from medcalib.engine.optimization import build_optimizer, build_schedule

    config = changed(
        tiny, optimizer=optimizer, schedule=schedule, epochs=10, warmup_epochs=2, step_epochs=4, lr=1.0
    ).train
    chosen = build_optimizer(config, [torch.nn.Parameter(torch.zeros(1))])
    steps = build_schedule(config, chosen)
    rates = []
    for _ in range(10):
        rates.append(chosen.param_groups[0]["lr"])
        chosen.step()
        steps.step()
    assert rates[0] == pytest.approx(1 / 3)
    assert rates[2] == pytest.approx(1.0)
    assert rates[9] == pytest.approx(
        {"cosine": 0.0381, "poly": 0.1539, "step": 0.1, "constant": 1.0}[schedule], abs=1e-3
    )
