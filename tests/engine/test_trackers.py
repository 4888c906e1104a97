"""What each service is told: through fakes of its package, and through the package itself where it is installed."""

from __future__ import annotations

import getpass
import os
import sys
from collections.abc import Callable
from importlib.machinery import ModuleSpec
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from medcalib.engine.trackers.identity import known
from medcalib.engine.trackers.mlflow import MLflow
from medcalib.engine.trackers.wandb import WandB
from medcalib.engine.tracking import Tracker

CONFIG = {"name": "trial", "train": {"lr": 0.1}}
PROVENANCE = {"starts": 1, "versions": {"torch": "2"}}
LINES = ({"epoch": 1, "loss": 1.0, "parts": {"ce (x)": 0.5}, "val_dice": None}, {"epoch": 2, "loss": 0.5})
Calls = list[tuple[str, tuple[Any, ...], dict[str, Any]]]


class Recorder:
    """Every attribute is a function that notes its call and returns a recorder."""

    def __init__(self, calls: Calls, answers: dict[str, Any] | None = None) -> None:
        self._calls, self._answers = calls, answers or {}

    def __getattr__(self, name: str) -> Callable[..., Any]:
        def called(*args: Any, **kwargs: Any) -> Any:
            self._calls.append((name, args, kwargs))
            return self._answers.get(name, self)

        return called


def fake(monkeypatch: pytest.MonkeyPatch, name: str, **attributes: Any) -> None:
    module = ModuleType(name)
    module.__spec__ = ModuleSpec(name, None, origin="fake")
    module.__dict__.update(attributes)
    monkeypatch.setitem(sys.modules, name, module)


def follow(tracker: Tracker, *lines: dict[str, Any], end: str = "finished") -> None:
    tracker.start(CONFIG, PROVENANCE)
    for line in lines:
        tracker.log(line, line["epoch"])
    tracker.finish(end)


def test_wandb_gets_numbers_and_keeps_its_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: Calls = []
    recorder = Recorder(calls)
    fake(monkeypatch, "wandb", init=recorder.init, Settings=dict)
    follow(WandB(tmp_path), LINES[0], end="preempted")
    follow(WandB(tmp_path), LINES[1])
    inits = [kwargs for name, _, kwargs in calls if name == "init"]
    assert inits[0]["id"] == inits[1]["id"] == known(tmp_path, "wandb")
    assert all(init["resume"] == "allow" for init in inits)
    assert inits[0]["config"] == {**CONFIG, "provenance": PROVENANCE}
    logged = [(args, kwargs) for name, args, kwargs in calls if name == "log"]
    assert logged == [(({"loss": 1.0, "parts/ce (x)": 0.5},), {"step": 1}), (({"loss": 0.5},), {"step": 2})]
    ends = [(name, kwargs) for name, _, kwargs in calls if name in ("mark_preempting", "finish")]
    assert ends == [("mark_preempting", {}), ("finish", {"exit_code": 1}), ("finish", {"exit_code": 0})]


def test_two_runs_have_two_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake(monkeypatch, "wandb", init=Recorder([]).init, Settings=dict)
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        follow(WandB(tmp_path / name))
    assert known(tmp_path / "a", "wandb") != known(tmp_path / "b", "wandb")


def fake_mlflow(monkeypatch: pytest.MonkeyPatch) -> Calls:
    calls: Calls = []
    answers = {
        "get_experiment_by_name": None,
        "create_experiment": "7",
        "create_run": SimpleNamespace(info=SimpleNamespace(run_id="run-1")),
    }
    plain = SimpleNamespace(Param=lambda *a: a, RunTag=lambda *a: a, Metric=lambda *a: a)
    fake(monkeypatch, "mlflow", MlflowClient=lambda: Recorder(calls, answers), entities=plain)
    return calls


def test_mlflow_gets_numbers_and_keeps_its_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = fake_mlflow(monkeypatch)
    follow(MLflow(tmp_path), LINES[0], end="preempted")
    follow(MLflow(tmp_path), LINES[1])
    names = [name for name, _, _ in calls]
    assert names.count("create_run") == 1
    assert [kwargs for name, _, kwargs in calls if name == "update_run"] == [{"status": "RUNNING"}]
    batches = [(args, kwargs) for name, args, kwargs in calls if name == "log_batch"]
    assert all(args == ("run-1",) for args, _ in batches)
    params = [entry for _, kwargs in batches for entry in kwargs.get("params", ())]
    assert params == [("name", "trial"), ("train.lr", "0.1")]  # once: MLflow refuses to change them
    metrics = [(key, value, step) for _, kw in batches for key, value, _, step in kw.get("metrics", ())]
    assert metrics == [("loss", 1.0, 1), ("parts/ce _x_", 0.5, 1), ("loss", 0.5, 2)]
    assert [kwargs["status"] for name, _, kwargs in calls if name == "set_terminated"] == ["KILLED", "FINISHED"]


def test_mlflow_takes_a_hundred_entries_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = fake_mlflow(monkeypatch)
    follow(MLflow(tmp_path), {"epoch": 1, "parts": {f"p{i}": float(i) for i in range(250)}})
    sizes = [len(kwargs["metrics"]) for name, _, kwargs in calls if name == "log_batch" and "metrics" in kwargs]
    assert sizes == [100, 100, 50]


@pytest.mark.skipif(find_spec("wandb") is None, reason="wandb is not installed")
def test_the_real_wandb_is_told_no_paths_and_no_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What would be sent lies in the .wandb file and in files/."""
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setattr(sys, "argv", ["medcalib", "train", "--data", "/secret/patients"])
    run = tmp_path / "secret_folder"
    run.mkdir()
    for end in ("preempted", "finished"):
        follow(WandB(run), *LINES, end=end)
    folders = sorted((run / "wandb").glob("offline-run-*"))
    assert len(folders) == 2
    for folder in folders:
        assert folder.name.endswith(str(known(run, "wandb")))
        sent = [*folder.glob("*.wandb"), *(path for path in (folder / "files").rglob("*") if path.is_file())]
        raw = b"".join(path.read_bytes() for path in sent)
        assert b"parts/ce (x)" in raw
        for secret in ("secret", str(tmp_path), os.uname().nodename + "\x00", f"/{getpass.getuser()}/"):
            assert secret.encode() not in raw


@pytest.mark.skipif(find_spec("sqlalchemy") is None or find_spec("mlflow") is None, reason="mlflow is not installed")
def test_the_real_mlflow_keeps_one_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import mlflow

    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/runs.db")
    follow(MLflow(tmp_path), LINES[0], end="preempted")
    follow(MLflow(tmp_path), LINES[1])
    client = mlflow.MlflowClient()
    (experiment,) = [e for e in client.search_experiments() if e.name == "medcalib"]
    (found,) = client.search_runs([experiment.experiment_id])
    assert found.info.run_id == known(tmp_path, "mlflow")
    assert (found.info.status, found.data.params["train.lr"]) == ("FINISHED", "0.1")
    assert [(m.step, m.value) for m in client.get_metric_history(found.info.run_id, "loss")] == [(1, 1.0), (2, 0.5)]
    assert not {"mlflow.user", "mlflow.source.name"} & set(found.data.tags)
