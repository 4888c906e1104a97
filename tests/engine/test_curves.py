"""Curves for TensorBoard hold the numbers of metrics.jsonl, of each epoch once."""

from __future__ import annotations

from pathlib import Path

import pytest
from runs import lines, signal_after
from tiny import changed

from medcalib.config import RunConfig
from medcalib.engine import curves
from medcalib.engine.train import train
from medcalib.errors import MissingExtraError, PreemptedError


def test_without_the_extra_it_is_refused_before_anything_is_written(
    tiny: RunConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(curves, "find_spec", lambda _: None)
    with pytest.raises(MissingExtraError, match=r'pip install "medcalib\[tensorboard\]"'):
        train(changed(tiny, tensorboard=True), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_nothing_is_drawn_that_nobody_wants(tiny: RunConfig, tmp_path: Path) -> None:
    train(changed(tiny, epochs=1), tmp_path / "run")
    assert not (tmp_path / "run" / "tensorboard").exists()


def test_curves_hold_each_epoch_once(tiny: RunConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    reader = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    config, run = changed(tiny, tensorboard=True), tmp_path / "run"
    with monkeypatch.context() as patch:
        signal_after(4, patch)
        with pytest.raises(PreemptedError):
            train(config, run)
    train(config, run, resume=True)
    found = reader.EventAccumulator(str(run / "tensorboard")).Reload()
    drawn = [(event.step, event.value) for event in found.Scalars("parts/cross_entropy")]
    wanted = [(line["epoch"], line["parts"]["cross_entropy"]) for line in lines(run)]
    assert drawn == [(epoch, pytest.approx(value, rel=1e-6)) for epoch, value in wanted]  # stored in float32
    assert [event.step for event in found.Scalars("val_dice")] == [2, 3]
