"""A penalty that penalized nothing is told at the end of a training."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest
from tiny import TINY

from medcalib.config import load
from medcalib.config.bundled import bundled
from medcalib.engine.idle_terms import idle_terms
from medcalib.engine.train import train


def test_only_what_is_next_to_nothing_is_told() -> None:
    line = {"loss": 0.5, "parts": {"cross_entropy": 0.49, "margin": 0.004, "nacl": 0.006}}
    (warning,) = idle_terms(line, "mbls")
    assert warning.startswith("margin of loss mbls was 0.004 of a loss of 0.5 ")
    assert "`medcalib losses mbls`" in warning


@pytest.mark.parametrize("line", [{"loss": 0.5, "parts": {"ce": 0.5}}, {"loss": None, "parts": {}}, {"epoch": 1}])
def test_a_loss_of_one_term_or_an_epoch_without_one_is_not(line: dict[str, object]) -> None:
    assert idle_terms(line, "ce") == []


@pytest.mark.parametrize(("margin", "told"), [(1000.0, True), (0.1, False)])
def test_training_tells_of_a_margin_that_nothing_exceeds(
    phantom: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture, margin: float, told: bool
) -> None:
    options = (*TINY, "loss=mbls", f"loss.margin={margin}", "train.epochs=1")
    with caplog.at_level(logging.WARNING, "medcalib"):
        train(load(bundled()["phantom"], data=str(phantom), overrides=options), tmp_path / "run")
    assert any("margin of loss mbls was 0 of a loss" in text for text in caplog.messages) is told
