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
from medcalib.engine.apply import apply_calibrator
from medcalib.engine.calibrate import calibrate, calibrate_predictions
from medcalib.engine.fit_samples import Sampling
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


def test_cross_fitted_validation_cases_are_repaired_by_fits_that_have_not_seen_their_patient(
    run: Path, tmp_path: Path
) -> None:
    fitted = calibrate(run, tmp_path / "t.safetensors", folds=2)
    assert fitted.facts["held_out"]["nll"] >= fitted.facts["after"]["nll"]
    assert set(fitted.facts["patients"].values()) == {p for fold in fitted.facts["folds"] for p in fold["patients"]}
    predict(run, tmp_path / "plain", split="val")
    index = predict(run, tmp_path / "val", split="val", calibrator=tmp_path / "t.safetensors")
    of_patient = {p: fold["parameters"]["temperature_"] for fold in fitted.facts["folds"] for p in fold["patients"]}
    assert len(set(of_patient.values())) == 2
    for case in index["cases"]:
        plain, found = (read_volume(tmp_path / f / f"{case}.nii.gz").array.astype(float) for f in ("plain", "val"))
        expected = plain ** (1 / of_patient[fitted.facts["patients"][case]])
        np.testing.assert_allclose(found, expected / expected.sum(-1, keepdims=True), atol=1e-5)


def test_the_fit_is_on_the_grid_that_is_scored(tiny: RunConfig, tmp_path: Path) -> None:
    """Resampling smooths logits: a temperature of the network's own grid would not be that of the images' grid."""
    coarse = tiny.model_copy(update={"preprocess": tiny.preprocess.model_copy(update={"spacing_mm": (3.0, 3.0, 10.0)})})
    train(changed(coarse, epochs=1, steps_per_epoch=5), tmp_path / "run")
    fitted = calibrate(tmp_path / "run", tmp_path / "t", sampling=Sampling(None), folds=2)
    index = predict(tmp_path / "run", tmp_path / "val", split="val", calibrator=tmp_path / "t")
    voxels = [read_volume(tmp_path / "val" / f"{case}.nii.gz").array[..., 0].size for case in index["cases"]]
    assert fitted.facts["voxels"] == sum(voxels)


def test_a_method_that_looks_at_the_image_gets_it(run: Path, tmp_path: Path) -> None:
    options = {"image_channels": 1, "steps": 30}
    fitted = calibrate(run, tmp_path / "l", method="local_temperature", options=options)
    assert fitted.facts["after"]["nll"] <= fitted.facts["before"]["nll"]
    assert float(fitted.image_weight_.abs().max()) > 0
    index = predict(run, tmp_path / "pred", calibrator=tmp_path / "l")
    assert index["method"]["name"] == "ce + local_temperature"
    with pytest.raises(ConfigError, match="needs the images; apply it with"):
        apply_calibrator(tmp_path / "l", tmp_path / "pred", tmp_path / "out")


def test_predictions_of_a_run_and_the_run_give_one_fit(
    run: Path, phantom: Path, tiny: RunConfig, tmp_path: Path
) -> None:
    predict(run, tmp_path / "val", split="val")
    whole = Sampling(None)
    direct = calibrate(run, tmp_path / "a", sampling=whole)
    stored, _ = calibrate_predictions(tmp_path / "val", phantom, tmp_path / "b", sampling=whole, config=tiny)
    assert float(stored.state_dict()["temperature_"]) == pytest.approx(
        float(direct.state_dict()["temperature_"]), rel=1e-4
    )
    assert stored.facts["weights_sha256"] == direct.facts["weights_sha256"]
    predict(run, tmp_path / "test")
    apply_calibrator(tmp_path / "b", tmp_path / "test", tmp_path / "applied", labels=phantom, config=tiny)
    index = predict(run, tmp_path / "direct", calibrator=tmp_path / "a")
    for case in index["cases"]:
        one, two = (read_volume(tmp_path / f / f"{case}.nii.gz").array for f in ("applied", "direct"))
        np.testing.assert_allclose(one, two, atol=1e-4)
    train(changed(tiny, seed=5, epochs=1), tmp_path / "other")
    predict(tmp_path / "other", tmp_path / "others")
    with pytest.raises(ConfigError, match="other weights"):
        apply_calibrator(tmp_path / "b", tmp_path / "others", tmp_path / "x")
