"""Fitting on validation cases, applying to others, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from tiny import changed

from medcalib import calibrators
from medcalib.config import RunConfig
from medcalib.data.nifti import read_volume
from medcalib.engine.calibrate import calibrate
from medcalib.engine.predict import predict
from medcalib.engine.train import train
from medcalib.errors import ConfigError


@pytest.fixture
def run(tiny: RunConfig, tmp_path: Path) -> Path:
    train(changed(tiny, epochs=2, steps_per_epoch=10), tmp_path / "run")
    return tmp_path / "run"


def test_the_fit_lowers_the_nll_and_names_its_cases(run: Path, tmp_path: Path) -> None:
    fitted = calibrate(run, tmp_path / "t.safetensors")
    assert fitted.facts["after"]["nll"] < fitted.facts["before"]["nll"]
    assert len(fitted.facts["cases"]) == 4
    again = calibrate(run, tmp_path / "u.safetensors")
    assert torch.equal(again.state_dict()["temperature_"], fitted.state_dict()["temperature_"])
    assert calibrators.load(tmp_path / "t.safetensors").facts == fitted.facts


def test_calibrated_predictions_are_the_scaled_logits(run: Path, tmp_path: Path) -> None:
    fitted = calibrate(run, tmp_path / "t.safetensors")
    predict(run, tmp_path / "plain")
    index = predict(run, tmp_path / "scaled", calibrator=tmp_path / "t.safetensors")
    assert index["method"]["name"] == "ce + temperature"
    name = f"{index['cases'][0]}.nii.gz"
    plain, scaled = (read_volume(tmp_path / folder / name).array.astype(np.float64) for folder in ("plain", "scaled"))
    temperature = fitted.state_dict()["temperature_"].item()
    assert temperature != pytest.approx(1, abs=1e-3)
    expected = plain ** (1 / temperature)
    np.testing.assert_allclose(scaled, expected / expected.sum(-1, keepdims=True), atol=1e-5)
    np.testing.assert_array_equal(scaled.argmax(-1), plain.argmax(-1))


def test_the_last_weights_can_be_asked_for(run: Path, tmp_path: Path) -> None:
    manifest = json.loads((run / "manifest.json").read_text())
    index = predict(run, tmp_path / "last", weights="last")
    assert index["method"]["weights_sha256"] == manifest["last"][0]["sha256"]
    calibrate(run, tmp_path / "t.safetensors", weights="last")
    predict(run, tmp_path / "scaled", weights="last", calibrator=tmp_path / "t.safetensors")
    with pytest.raises(ConfigError, match="other weights"):
        predict(run, tmp_path / "mixed", calibrator=tmp_path / "t.safetensors")


def test_cases_that_it_was_fitted_on_and_other_weights_are_refused(run: Path, tiny: RunConfig, tmp_path: Path) -> None:
    calibrate(run, tmp_path / "t.safetensors")
    with pytest.raises(ConfigError, match="would be too good"):
        predict(run, tmp_path / "val", split="val", calibrator=tmp_path / "t.safetensors")
    train(changed(tiny, seed=5, epochs=1), tmp_path / "other")
    with pytest.raises(ConfigError, match="other weights"):
        predict(tmp_path / "other", tmp_path / "x", calibrator=tmp_path / "t.safetensors")
