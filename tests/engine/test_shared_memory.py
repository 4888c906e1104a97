"""Loader workers and a /dev/shm that is too small for them: refused by name instead of a bus error."""

from __future__ import annotations

import logging
import warnings
from pathlib import Path

import pytest
from tiny import changed

from medcalib.config import RunConfig
from medcalib.engine import shared_memory as module
from medcalib.engine.doctor import doctor
from medcalib.engine.loader import training_loader
from medcalib.engine.shared_memory import SharedMemory, batch_bytes, require_shared_memory, shared_memory
from medcalib.engine.train import train
from medcalib.errors import ConfigError

MIB = 1 << 20


def give(monkeypatch: pytest.MonkeyPatch, total: int, free: int | None = None) -> None:
    """A machine with so many bytes of shared memory."""
    memory = SharedMemory(total, total if free is None else free)
    monkeypatch.setattr(module, "shared_memory", lambda: memory)
    monkeypatch.setattr("medcalib.engine.doctor.shared_memory", lambda: memory)


def test_a_batch_is_as_large_as_the_loader_makes_it(tiny: RunConfig) -> None:
    from medcalib.config.dataset import cases_and_split

    config = changed(tiny, workers=1)
    loader, _ = training_loader(config, cases_and_split(config)["train"], 1)
    images, labels = next(iter(loader))
    found = images.untyped_storage().nbytes() + labels.untyped_storage().nbytes()
    assert found == batch_bytes(config.train.batch_size, 1, config.train.patch_size)
    assert images.is_shared()
    assert labels.is_shared()


@pytest.mark.fault(67)
def test_workers_that_do_not_fit_are_refused_with_the_fix(monkeypatch: pytest.MonkeyPatch) -> None:
    give(monkeypatch, 64 * MIB)
    with pytest.raises(ConfigError, match="71 MiB of shared memory for 10 batches of 7 MiB") as refused:
        require_shared_memory(4, 7 * MIB)
    for fix in ("--shm-size=8g", "shm_size: 8g", "--ipc=host", "train.workers to 0", "64 MiB free"):
        assert fix in str(refused.value)


def test_the_batches_that_torch_keeps_are_the_number_that_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    # measured with /dev/shm mounted in several sizes: 2 workers ran in 6 batches and a MiB, and not in 5.5 batches
    give(monkeypatch, 6 * 4 * MIB + MIB)
    require_shared_memory(2, 4 * MIB)
    give(monkeypatch, 6 * 4 * MIB)
    with pytest.raises(ConfigError):
        require_shared_memory(2, 4 * MIB)


def test_what_others_have_taken_does_not_count(monkeypatch: pytest.MonkeyPatch) -> None:
    give(monkeypatch, 4 << 30, 64 * MIB)
    with pytest.raises(ConfigError, match="64 MiB free"):
        require_shared_memory(4, 7 * MIB)


def test_each_process_of_torchrun_has_workers(monkeypatch: pytest.MonkeyPatch) -> None:
    give(monkeypatch, 64 * MIB)
    require_shared_memory(4, 4 * MIB)
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")
    with pytest.raises(ConfigError, match="for 20 batches"):
        require_shared_memory(4, 4 * MIB)


@pytest.mark.fault(67)
def test_little_is_warned_of_and_enough_is_not(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING)
    give(monkeypatch, 1 << 30)
    require_shared_memory(4, 7 * MIB)
    assert not caplog.messages
    give(monkeypatch, 512 * MIB)
    require_shared_memory(4, 7 * MIB)
    (message,) = caplog.messages
    assert "512 MiB" in message
    assert "--shm-size=8g" in message


def test_without_workers_nothing_is_needed(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    give(monkeypatch, 0)
    require_shared_memory(0, 7 * MIB)
    assert not caplog.messages


def test_a_system_without_the_folder_is_let_go(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(module, "PLACE", tmp_path / "absent")
    assert shared_memory() is None
    require_shared_memory(4, 1 << 60)
    assert doctor()["shared_memory_bytes"] is None


@pytest.mark.fault(67)
def test_training_is_refused_before_anything_is_written(
    tiny: RunConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    give(monkeypatch, 4096)
    with pytest.raises(ConfigError, match="--shm-size=8g"):
        train(changed(tiny, workers=2), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_there_are_no_more_workers_than_cores(
    tiny: RunConfig, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """torch would warn of each loader; what they load is the same."""
    from medcalib.config.dataset import cases_and_split

    caplog.set_level("INFO", "medcalib")
    cases = cases_and_split(tiny)["train"]
    monkeypatch.setattr("medcalib.engine.surroundings.os.sched_getaffinity", lambda _: {0, 5}, raising=False)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        loaders = [training_loader(changed(tiny, workers=workers), cases, 1)[0] for workers in (4, 2, 0)]
    assert [loader.num_workers for loader in loaders] == [2, 2, 0]
    assert [record.getMessage() for record in caplog.records] == [
        "2 loader workers in place of 4 (`train.workers`): as many as there are cores"
    ]


@pytest.mark.fault(67)
@pytest.mark.parametrize(("total", "warned"), [(64 * MIB, True), (1 << 30, False)])
def test_doctor_names_it(monkeypatch: pytest.MonkeyPatch, total: int, warned: bool) -> None:
    give(monkeypatch, total)
    facts = doctor()
    assert facts["shared_memory_bytes"] == total
    assert any("64 MiB" in warning and "--shm-size=8g" in warning for warning in facts["warnings"]) == warned
