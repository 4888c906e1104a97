"""Every method trains from a config by its name alone, and resumes exactly with whatever state it keeps."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from runs import train_interrupted
from tiny import TINY, changed

from medcalib import losses
from medcalib.config import RunConfig, load
from medcalib.config.bundled import bundled
from medcalib.engine.checkpoint import Checkpoints
from medcalib.engine.train import train

SHORT = ("train.epochs=2", "train.steps_per_epoch=2", "train.validate_every=1")


def config_of(phantom: Path, loss: str, *overrides: str) -> RunConfig:
    return load(bundled()["phantom"], data=str(phantom), loss=loss, overrides=(*TINY, *SHORT, *overrides))


def same(a: Any, b: Any) -> bool:
    """Equal tensors, or dictionaries of them (the sums of a term)."""
    return torch.equal(a, b) if isinstance(a, torch.Tensor) else all(torch.equal(a[key], b[key]) for key in a)


def check_resumes(config: RunConfig, folder: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """Straight and stopped runs end in the same state, bit for bit; returns it."""
    straight = train(config, folder / "straight")
    train_interrupted(3, config, folder / "stopped", monkeypatch)
    torch.manual_seed(99)
    resumed = train(config, folder / "stopped", resume=True)
    assert {**resumed, "seconds": 0} == {**straight, "seconds": 0}
    states = [Checkpoints(folder / run).load_last() for run in ("straight", "stopped")]
    for part in ("model", "objective"):
        assert states[0][part].keys() == states[1][part].keys()
        assert all(same(states[0][part][key], states[1][part][key]) for key in states[0][part])
    return states[0]


@pytest.mark.parametrize("name", losses.names())
def test_trains_by_name_and_resumes_exactly(
    phantom: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    check_resumes(config_of(phantom, name), tmp_path, monkeypatch)
    line = json.loads((tmp_path / "straight" / "metrics.jsonl").read_text().splitlines()[-1])
    assert list(line["parts"]) == list(losses.RECIPES[name].terms)
    assert line["skipped_steps"] == 0


@pytest.mark.parametrize("driver", ["validation", "train"])
def test_the_config_says_what_drives_multipliers(
    phantom: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, driver: str
) -> None:
    config = config_of(phantom, "crac", f"train.multipliers={driver}")
    state = check_resumes(config, tmp_path, monkeypatch)["objective"]
    assert state["terms.crac.multipliers.updates"] == 2
    assert float(state["terms.crac.multipliers.lam"].min()) > 1e-3
    if driver == "train":  # without a validation in between
        once = changed(config, validate_every=2)
        train(once, tmp_path / "rare")
        rare = Checkpoints(tmp_path / "rare").load_last()["objective"]
        assert torch.equal(rare["terms.crac.multipliers.lam"], state["terms.crac.multipliers.lam"])


def test_an_image_kernel_trains_from_a_config(phantom: Path, tmp_path: Path) -> None:
    """The loop hands the images to a loss that looks at them."""
    config = config_of(phantom, "nacl", "loss.kernel=image_proportions_l1")
    assert config.loss.kernel == "image_proportions_l1"
    assert train(config, tmp_path / "run")["parts"]["nacl"] > 0
