"""Minutes of training on real volumes; run by `make test-slow`."""

from __future__ import annotations

from pathlib import Path

import pytest

from medcalib.config import load
from medcalib.config.bundled import bundled
from medcalib.engine.evaluate import evaluate
from medcalib.engine.predict import predict
from medcalib.engine.train import train


@pytest.mark.slow
@pytest.mark.parametrize("loss", ["ce", "mbls"])
def test_hippocampus_reaches_a_dice_of_083(real: Path, tmp_path: Path, loss: str) -> None:
    """1000 steps of batch 4; a plain U-Net reaches 0.83 to 0.84 on such a split."""
    config = load(bundled()["msd_hippocampus"], data=str(real / "msd_hippocampus"), loss=loss)
    train(config, tmp_path / "run")
    predict(tmp_path / "run", tmp_path / "predictions")
    scores = evaluate(tmp_path / "predictions", config.root, tmp_path / "scores", config=config)
    assert (scores["n_expected"], scores["n_scored"]) == (42, 42)
    assert scores["mean"]["dice"]["foreground"]["value"] >= 0.83
    assert scores["pooled"]["pred_foreground"]["ece"] < 0.05
