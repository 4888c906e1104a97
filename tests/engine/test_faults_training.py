"""What goes wrong while a network trains: each ends in one clear sentence, and nothing that was saved is lost."""

from __future__ import annotations

import os
import random
import resource
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import torch
from runs import assert_same_runs, forked, lines, status, temporary_files, train_interrupted
from tiny import TINY, changed
from torch import nn

from medcalib.config import RunConfig, load
from medcalib.config.bundled import bundled
from medcalib.engine import inference, step
from medcalib.engine import train as module
from medcalib.engine.checkpoint import Checkpoints
from medcalib.engine.inference import window_logits
from medcalib.engine.loader import PatchDataset
from medcalib.engine.predict import predict
from medcalib.engine.run import append_metrics, load_model
from medcalib.engine.train import train
from medcalib.errors import CheckpointError, NoMemoryError, TrainingError
from medcalib.losses import Objective, build, names


def train_on(phantom: Path, run: Path, epochs: int, threads: int) -> None:
    """What `medcalib train --resume` does, in a process that is there to be killed."""
    torch.set_num_threads(threads)  # their number changes the order of sums in torch
    overrides = (*TINY, f"train.epochs={epochs}", "train.checkpoint_steps=1")
    train(load(bundled()["phantom"], data=str(phantom), overrides=overrides), run, resume=True)


@pytest.mark.fault(57, 61)
@pytest.mark.parametrize(("kills", "epochs"), [(4, 10), pytest.param(20, 60, marks=pytest.mark.slow)])
def test_killed_again_and_again_a_training_ends_as_if_it_never_was(
    tiny: RunConfig, phantom: Path, tmp_path: Path, record_property: Any, kills: int, epochs: int
) -> None:
    """SIGKILL at any moment, checkpoints in the making included; each start takes up what the one before has saved."""
    config, run, rng = changed(tiny, epochs=epochs, checkpoint_steps=1), tmp_path / "run", random.Random(0)  # noqa: S311
    saved, halves = [(0, 0)], 0
    for number in range(kills):
        ahead = max(rng.randint(0, 3 * epochs // kills - 2), not number)  # steps; none: also while it still reads data
        process = forked(train_on, phantom, run, epochs, torch.get_num_threads())
        for _ in range(ahead):
            before = manifest_of(run)
            while process.is_alive() and manifest_of(run) == before:
                time.sleep(0.001)
        time.sleep(rng.uniform(0, 0.05 if ahead else 1))
        process.kill()
        process.join()
        assert process.exitcode == -signal.SIGKILL
        checkpoints = Checkpoints(run)
        entry = checkpoints.load_newest()[1]
        assert entry == checkpoints.manifest["last"][0]  # no fall back to the one before
        saved.append((entry["epoch"], entry["step"]))
        halves += len(temporary_files(run))
    assert saved == sorted(saved)  # no start fell behind the one before
    train(config, run, resume=True)
    train(changed(config, checkpoint_steps=None), tmp_path / "straight")
    assert_same_runs(tmp_path / "straight", run)
    assert temporary_files(run) == []
    steps = f"{len(set(saved)) - 1} different steps up to {3 * saved[-1][0] + saved[-1][1]} of {3 * epochs}"
    record_property(
        "measured",
        f"{kills} kills after {steps}: {kills} newest checkpoints whole, {kills} starts continued, {halves} half-"
        "written files left, 0 at the end; weights, optimizer, random numbers and metrics of a run never killed",
    )


def manifest_of(run: Path) -> bytes:
    return (run / "manifest.json").read_bytes() if (run / "manifest.json").exists() else b""


@contextmanager
def files_no_larger_than(size: int) -> Iterator[None]:
    """Writes beyond it fail half-way, as on a full disk."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.mark.fault(68)
def test_a_full_disk_loses_nothing(tiny: RunConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With room again the run goes on to the same bits. Checkpoints take more than 10 kB, other files less."""
    config, run = changed(tiny, epochs=2), tmp_path / "run"
    train(config, tmp_path / "straight")
    train_interrupted(4, config, run, monkeypatch)
    files = {path.name: path.read_bytes() for path in (run / "checkpoints").iterdir()}
    with (
        files_no_larger_than(10_000),
        pytest.raises(CheckpointError, match="cannot be written.*checkpoints are intact"),
    ):
        train(config, run, resume=True)
    assert {path.name: path.read_bytes() for path in (run / "checkpoints").iterdir()} == files
    assert status(run) == "failed"
    train(config, run, resume=True)
    assert_same_runs(tmp_path / "straight", run)


@pytest.mark.fault(68)
def test_a_full_disk_leaves_the_metrics_whole(tmp_path: Path) -> None:
    append_metrics(tmp_path, {"epoch": 1})
    before = (tmp_path / "metrics.jsonl").read_bytes()
    with files_no_larger_than(len(before) + 5), pytest.raises(OSError, match=r"No space left|File too large"):
        append_metrics(tmp_path, {"epoch": 2})
    assert (tmp_path / "metrics.jsonl").read_bytes() == before
    append_metrics(tmp_path, {"epoch": 2})
    assert [line["epoch"] for line in lines(tmp_path)] == [1, 2]


@pytest.mark.fault(65)
def test_half_precision_scaling_backs_off_and_settles(
    tiny: RunConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A scaled loss beyond the largest number: steps are skipped, each with half the scale, until one fits."""
    monkeypatch.setattr(module, "build_scaler", lambda *_: torch.amp.GradScaler("cpu", init_scale=2.0**127))
    original = Objective.parts

    def larger(self: Objective, *args: Any, **options: Any) -> dict[str, torch.Tensor]:
        return {name: 64 * part for name, part in original(self, *args, **options).items()}

    monkeypatch.setattr(Objective, "parts", larger)
    train(changed(tiny, epochs=6), tmp_path / "run")
    skipped = [line["skipped_steps"] for line in lines(tmp_path / "run")]
    saved = Checkpoints(tmp_path / "run").load_last()
    assert skipped[0] == 3
    assert skipped[-1] == 0
    assert saved["scaler"]["scale"] == 2.0 ** (127 - sum(skipped))
    assert all(value.isfinite().all() for value in saved["model"].values())


@pytest.mark.fault(65)
@pytest.mark.parametrize(("dtype", "skipped"), [(torch.bfloat16, 0), (torch.float16, 1)])
def test_65_logits_of_70000_in_half_precision(
    tiny: RunConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, dtype: torch.dtype, skipped: int
) -> None:
    """What half precision can hold gives a finite loss, in float32; what overflows is a step skipped and counted."""
    original, steps = module.folder.build_model, []

    class Loud(nn.Module):
        def __init__(self, model: nn.Module) -> None:
            super().__init__()
            self.model = model

        def forward(self, images: torch.Tensor) -> torch.Tensor:
            logits: torch.Tensor = self.model(images)
            if self.training:
                steps.append(1)
                factor = 7e4 if len(steps) == 2 else 1.0
                logits = (logits / logits.detach().abs().clamp_min(1e-3) * factor).to(dtype)
            return logits

    monkeypatch.setattr(module.folder, "build_model", lambda *args: Loud(original(*args)))
    train(changed(tiny, epochs=1), tmp_path / "run")
    (line,) = lines(tmp_path / "run")
    assert line["skipped_steps"] == skipped
    assert (line["loss"] > 1e3) is (skipped == 0)
    assert all(value.isfinite().all() for value in Checkpoints(tmp_path / "run").load_last()["model"].values())


@pytest.mark.fault(65)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_losses_compute_in_float32_whatever_the_network_gives(dtype: torch.dtype, record_property: Any) -> None:
    """Also within autocast: what half-precision logits hold exactly gives the loss of float32, to the bit."""
    generator = torch.Generator().manual_seed(0)
    logits = (8 * torch.randn(2, 3, 6, 6, 4, generator=generator)).to(dtype)
    labels = torch.randint(0, 3, (2, 6, 6, 4), generator=generator)
    different = []
    for name in names():
        wanted = build(name, 3)(logits.float(), labels, images=torch.ones(2, 1, 6, 6, 4))
        with torch.autocast("cpu", torch.bfloat16):
            found = build(name, 3)(logits, labels, images=torch.ones(2, 1, 6, 6, 4))
        if found.dtype != torch.float32 or not torch.equal(found, wanted):
            different.append(name)
    assert different == []
    record_property("measured", f"{len(names())} losses of {dtype} logits: all float32, to the bit")


@pytest.mark.fault(64, 65)
def test_a_bad_loss_leaves_the_loss_scale_alone(
    tiny: RunConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Only an overflow of scaled gradients halves it: no scale makes a loss finite that is not."""
    monkeypatch.setattr(module, "build_scaler", lambda *_: torch.amp.GradScaler("cpu", init_scale=8.0))
    original, calls = Objective.parts, []

    def poisoned(self: Objective, *args: Any, **options: Any) -> dict[str, torch.Tensor]:
        calls.append(1)
        factor = float("inf") if len(calls) in (1, 3) else 1.0
        return {name: factor * part for name, part in original(self, *args, **options).items()}

    monkeypatch.setattr(Objective, "parts", poisoned)
    train(changed(tiny, epochs=2), tmp_path / "run")
    assert [line["skipped_steps"] for line in lines(tmp_path / "run")] == [2, 0]
    assert Checkpoints(tmp_path / "run").load_last()["scaler"]["scale"] == 8.0


def test_the_host_waits_for_the_device_once_a_step(
    tiny: RunConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every value that the loop reads comes by the one place that fetches, also of accumulated batches."""
    original, fetched = step._fetched, []
    monkeypatch.setattr(step, "_fetched", lambda scalars: fetched.append(1) or original(scalars))
    train(changed(tiny, epochs=1, accumulate=2), tmp_path / "run")
    assert len(fetched) == 3


@pytest.mark.fault(64)
def test_weights_that_are_not_finite_are_not_saved(
    tiny: RunConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    original, epochs = module._train_epoch, []

    def broken(training: Any) -> None:
        original(training)
        epochs.append(1)
        if len(epochs) == 2:
            next(training.state.model.parameters()).data.fill_(float("inf"))

    monkeypatch.setattr(module, "_train_epoch", broken)
    with pytest.raises(TrainingError, match="weights are no longer finite; the last checkpoint is intact"):
        train(changed(tiny, validate_every=3), tmp_path / "run")
    assert status(tmp_path / "run") == "failed"
    saved = Checkpoints(tmp_path / "run").load_last()
    assert saved["epoch"] == 1
    assert all(value.isfinite().all() for value in saved["model"].values())


@pytest.mark.fault(66)
@pytest.mark.parametrize("error", [torch.OutOfMemoryError("CUDA out of memory"), RuntimeError("can't allocate memory")])
def test_without_memory_it_says_what_to_change(
    tiny: RunConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    def no_memory(*args: Any) -> None:
        raise error

    monkeypatch.setattr(module, "_step", no_memory)
    with pytest.raises(TrainingError, match=r"train\.batch_size and double train\.accumulate.*patch_size.*bf16"):
        train(tiny, tmp_path / "run")
    assert status(tmp_path / "run") == "failed"


class Narrow(nn.Module):
    """Has memory for one window at a time."""

    def forward(self, windows: torch.Tensor) -> torch.Tensor:
        if len(windows) > 1:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return windows.repeat(1, 4, 1, 1, 1)


@pytest.mark.fault(66)
def test_without_memory_for_many_windows_they_are_taken_one_by_one(
    tiny: RunConfig, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    image = torch.randn(1, 28, 28, 6)
    logits = window_logits(Narrow(), image, tiny, torch.device("cpu"))
    torch.testing.assert_close(logits, image.repeat(4, 1, 1, 1))
    assert "no memory for 2 windows at once: taken one by one" in caplog.text
    one = tiny.model_copy(update={"predict": tiny.predict.model_copy(update={"batch_size": 1})})
    calls: list[int] = []

    def never(*args: Any) -> None:
        calls.append(1)
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(inference, "_stitched", never)
    with pytest.raises(NoMemoryError, match=r"one window of 16 x 16 x 4 voxels on cpu; .*--device cpu"):
        window_logits(Narrow(), image, one, torch.device("cpu"))
    assert calls == [1]


@pytest.mark.fault(66)
def test_prediction_goes_on_with_less_memory(
    tiny: RunConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Every case of the split, to the same probabilities; where not even one window fits, a sentence."""
    train(changed(tiny, epochs=1), tmp_path / "run")
    predict(tmp_path / "run", tmp_path / "roomy")
    most = [2]

    def short_of_memory(module: nn.Module, inputs: tuple[torch.Tensor]) -> None:
        if len(inputs[0]) >= most[0]:
            raise torch.OutOfMemoryError("CUDA out of memory")

    def loaded(*args: Any) -> Any:
        model, entry = load_model(*args)
        model.register_forward_pre_hook(short_of_memory)
        return model, entry

    monkeypatch.setattr("medcalib.engine.predict.load_model", loaded)
    index = predict(tmp_path / "run", tmp_path / "narrow")
    assert (len(index["cases"]), index["refused"]) == (4, [])
    assert caplog.text.count("taken one by one") == 4
    for path in (tmp_path / "roomy").glob("*.nii.gz"):
        roomy, narrow = (nib.load(tmp_path / of / path.name).get_fdata() for of in ("roomy", "narrow"))
        np.testing.assert_allclose(narrow, roomy, atol=1e-6)
    most[0] = 1
    with pytest.raises(NoMemoryError, match="no memory for one window"):
        predict(tmp_path / "run", tmp_path / "none")


@pytest.mark.fault(66)
def test_a_device_without_room_for_the_network_is_told_before_anything_is_written(
    tiny: RunConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_memory(*args: Any) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(module, "placed", no_memory)
    with pytest.raises(TrainingError, match=r"out of memory.*train\.batch_size"):
        train(tiny, tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.fault(67)
def test_a_killed_loader_worker_names_shared_memory(
    tiny: RunConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(PatchDataset, "__getitem__", lambda *_: os.kill(os.getpid(), signal.SIGKILL))
    with pytest.raises(TrainingError, match=r"loader worker was killed.*--shm-size=8g.*train\.workers to 0"):
        train(changed(tiny, workers=1), tmp_path / "run")
    assert status(tmp_path / "run") == "failed"


@pytest.mark.fault(69)
@pytest.mark.parametrize("cache", ["memory", "disk", "none"])
def test_the_data_folder_is_only_read(tiny: RunConfig, phantom: Path, tmp_path: Path, cache: str) -> None:
    def stamps() -> dict[str, tuple[int, int]]:
        return {str(p): (p.stat().st_mtime_ns, p.stat().st_size) for p in [phantom, *phantom.rglob("*")]}

    before = stamps()
    train(changed(tiny, epochs=1, cache=cache, cache_dir=str(tmp_path / "cache"), workers=1), tmp_path / "run")
    assert stamps() == before
