"""Repairing predictions of other tools: fit on some, apply to others, score; what is refused."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from foreign import AFFINES, write_nnunet
from helpers import LPS, smooth_case

from medcalib import calibrators
from medcalib.data.case import Case
from medcalib.data.labels import LabelMap
from medcalib.data.nifti import read_volume, write_volume
from medcalib.data.predictions import write_prediction
from medcalib.engine.apply import apply_calibrator
from medcalib.engine.calibrate import calibrate_predictions
from medcalib.engine.evaluate import evaluate
from medcalib.engine.fit_samples import Sampling
from medcalib.errors import CheckpointError, ConfigError, DataError

LABELS = LabelMap.consecutive(("background", "liver", "tumor"))
SHARPER = 2.0  # the made-up tool's logits are twice too large


def write_cases(folder: Path, first: int, count: int) -> tuple[Path, Path]:
    """Overconfident predictions and labels of some cases."""
    for k in range(first, first + count):
        probs, label = smooth_case(k, 3, (16, 14, 8))
        sharp = (SHARPER * probs.log()).softmax(0)
        case = Case(f"case_{k}", f"case_{k}", ())
        write_volume(folder / "labels" / f"{case.id}.nii.gz", label.numpy(), LPS)
        write_prediction(folder / "predictions", case, sharp.numpy(), LPS, LABELS, {})
    return folder / "predictions", folder / "labels"


@pytest.fixture
def fitted(tmp_path: Path) -> Path:
    """Temperature scaling of cases 0 to 3."""
    calibrate_predictions(*write_cases(tmp_path / "val", 0, 4), tmp_path / "t.safetensors")
    return tmp_path / "t.safetensors"


def test_the_known_factor_is_found_and_its_effect_scored(fitted: Path, tmp_path: Path) -> None:
    calibrator = calibrators.load(fitted)
    temperature = float(calibrator.state_dict()["temperature_"])
    assert temperature == pytest.approx(SHARPER, rel=0.03)
    assert calibrator.facts["source"] == "predictions"
    assert calibrator.facts["classes"] == ["background", "liver", "tumor"]
    predictions, labels = write_cases(tmp_path / "test", 10, 4)
    index = apply_calibrator(fitted, predictions, tmp_path / "repaired")
    assert index["method"]["name"] == "predictions + temperature"
    before = evaluate(predictions, labels, tmp_path / "s0")
    after = evaluate(tmp_path / "repaired", labels, tmp_path / "s1")
    assert after["pooled"]["all"]["ece"] < before["pooled"]["all"]["ece"] / 4
    assert after["mean"]["dice"] == before["mean"]["dice"]
    assert after["method"]["calibrator"]["temperature"] == temperature
    plain, repaired = (
        read_volume(f / "case_10.nii.gz").array.astype(float) for f in (predictions, tmp_path / "repaired")
    )
    expected = plain ** (1 / temperature)
    np.testing.assert_allclose(repaired, expected / expected.sum(-1, keepdims=True), atol=1e-5)


def test_cases_of_the_fit_are_refused_unless_cross_fitted(fitted: Path, tmp_path: Path) -> None:
    predictions, labels = tmp_path / "val" / "predictions", tmp_path / "val" / "labels"
    with pytest.raises(ConfigError, match=r"was fitted on case_0, case_1, case_2 \(4 of these cases\)"):
        apply_calibrator(fitted, predictions, tmp_path / "x")
    assert not (tmp_path / "x").exists()
    crossed, _ = calibrate_predictions(predictions, labels, tmp_path / "f.safetensors", folds=4)
    assert crossed.facts["held_out"]["nll"] >= crossed.facts["after"]["nll"]
    apply_calibrator(tmp_path / "f.safetensors", predictions, tmp_path / "crossed")
    for fold in crossed.facts["folds"]:
        (case,) = fold["patients"]
        temperature = fold["parameters"]["temperature_"]
        assert temperature != float(crossed.state_dict()["temperature_"])
        plain = read_volume(predictions / f"{case}.nii.gz").array.astype(float)
        found = read_volume(tmp_path / "crossed" / f"{case}.nii.gz").array
        expected = plain ** (1 / temperature)
        np.testing.assert_allclose(found, expected / expected.sum(-1, keepdims=True), atol=1e-5)


def test_each_fold_equals_a_fit_without_its_patients(tmp_path: Path) -> None:
    predictions, labels = write_cases(tmp_path, 0, 4)
    crossed, _ = calibrate_predictions(predictions, labels, tmp_path / "f", folds=2)
    held_out = crossed.facts["folds"][0]["patients"]
    for case in held_out:
        (predictions / f"{case}.nii.gz").unlink()
        (predictions / f"{case}.json").unlink()
        (labels / f"{case}.nii.gz").unlink()
    alone, _ = calibrate_predictions(predictions, labels, tmp_path / "a")
    assert crossed.facts["folds"][0]["parameters"]["temperature_"] == float(alone.state_dict()["temperature_"])


@pytest.mark.parametrize("name", calibrators.names())
def test_every_method_fits_applies_and_keeps_the_probabilities_whole(name: str, tmp_path: Path) -> None:
    options = {"steps": 20} if name == "local_temperature" else {}
    predictions, labels = write_cases(tmp_path / "val", 0, 2)
    found, _ = calibrate_predictions(predictions, labels, tmp_path / "c", method=name, options=options)
    if name not in ("isotonic", "histogram"):
        assert found.facts["after"]["nll"] <= found.facts["before"]["nll"]
    test, _ = write_cases(tmp_path / "test", 5, 1)
    apply_calibrator(tmp_path / "c", test, tmp_path / "out")
    repaired = read_volume(tmp_path / "out" / "case_5.nii.gz").array
    np.testing.assert_allclose(repaired.sum(-1), 1, atol=1e-5)
    assert repaired.min() >= 0
    if found.keeps_argmax:
        np.testing.assert_array_equal(repaired.argmax(-1), read_volume(test / "case_5.nii.gz").array.argmax(-1))


def test_arrays_of_nnunet_need_a_grid_and_get_it_from_the_labels(tmp_path: Path) -> None:
    affine = AFFINES["LPS"]
    for k in range(3):
        probs, label = smooth_case(k, 4, (12, 10, 8))
        write_nnunet(tmp_path / "p", probs.numpy(), affine, case=f"c{k}")
        write_volume(tmp_path / "l" / f"c{k}.nii.gz", label.numpy(), affine)
    calibrate_predictions(tmp_path / "p", tmp_path / "l", tmp_path / "c", folds=3)
    bare = apply_calibrator(tmp_path / "c", tmp_path / "p", tmp_path / "bare")
    assert {entry["reason"] for entry in bare["refused"]} == {"missing_reference"}
    assert "pass --labels" in bare["refused"][0]["message"]
    index = apply_calibrator(tmp_path / "c", tmp_path / "p", tmp_path / "out", labels=tmp_path / "l")
    assert index["refused"] == []
    found = read_volume(tmp_path / "out" / "c0.nii.gz")
    np.testing.assert_allclose(found.affine, affine)
    np.testing.assert_array_equal(found.array.argmax(-1), smooth_case(0, 4, (12, 10, 8))[0].argmax(0).numpy())


def test_exact_zeros_of_half_precision_stay_finite(tmp_path: Path) -> None:
    affine = AFFINES["RAS"]
    for k in range(2):
        probs, label = smooth_case(k, 4, (12, 10, 8), sharpness=12.0)
        half = probs.numpy().astype(np.float16)
        assert (half == 0).any()
        write_nnunet(tmp_path / "p", half, affine, case=f"c{k}")
        write_volume(tmp_path / "l" / f"c{k}.nii.gz", label.numpy(), affine)
    found, refused = calibrate_predictions(tmp_path / "p", tmp_path / "l", tmp_path / "c")
    assert not refused
    assert np.isfinite(found.facts["before"]["nll"])


def test_voxels_that_a_tool_did_not_predict_are_not_fitted_on(tmp_path: Path) -> None:
    """nnU-Net crops, and fills certain background in around: that is no prediction."""
    affine = AFFINES["RAS"]
    probs, label = smooth_case(0, 4, (16, 16, 12))
    filled = probs.numpy().copy()
    filled[:, :4], filled[0, :4] = 0, 1
    write_nnunet(tmp_path / "p", filled, affine)
    write_volume(tmp_path / "l" / "c1.nii.gz", label.numpy(), affine)
    found, _ = calibrate_predictions(tmp_path / "p", tmp_path / "l", tmp_path / "c", sampling=Sampling(None))
    assert found.facts["voxels"] == 12 * 16 * 12


def test_other_classes_other_files_and_the_training_split_are_refused(fitted: Path, tmp_path: Path) -> None:
    probs, _ = smooth_case(0, 3, (16, 14, 8))
    other = LabelMap.consecutive(("background", "spleen", "tumor"))
    write_prediction(tmp_path / "p", Case("new", "new", ()), probs.numpy(), LPS, other, {})
    with pytest.raises(ConfigError, match="fitted to the classes background, liver, tumor; .* has background, spleen"):
        apply_calibrator(fitted, tmp_path / "p", tmp_path / "out")
    (tmp_path / "text").write_text("no calibrator")
    with pytest.raises(CheckpointError, match="no saved calibrator"):
        apply_calibrator(tmp_path / "text", tmp_path / "p", tmp_path / "out")
    with pytest.raises(ConfigError, match="choose another one for the repaired"):
        apply_calibrator(fitted, tmp_path / "p", tmp_path / "p")
    with pytest.raises(DataError, match="holds no <case>"):
        apply_calibrator(fitted, tmp_path / "val", tmp_path / "out")
    predictions, labels = write_cases(tmp_path / "train", 0, 2)
    (predictions / "predictions.json").write_text(json.dumps({"cases": ["case_0", "case_1"], "split": "train"}))
    with pytest.raises(ConfigError, match="predictions of the training split"):
        calibrate_predictions(predictions, labels, tmp_path / "c")


def test_swapped_classes_are_refused_as_by_score(tmp_path: Path) -> None:
    for k in range(2):
        probs, label = smooth_case(k, 3, (16, 14, 8), sharpness=8.0)
        case = Case(f"c{k}", f"c{k}", ())
        write_volume(tmp_path / "l" / f"{case.id}.nii.gz", label.numpy(), LPS)
        write_prediction(tmp_path / "p", case, probs[[0, 2, 1]].numpy(), LPS, LABELS, {})
    with pytest.raises(DataError, match="liver is found as tumor"):
        calibrate_predictions(tmp_path / "p", tmp_path / "l", tmp_path / "c")


def test_what_was_repaired_is_not_repaired_again(fitted: Path, tmp_path: Path) -> None:
    predictions, _ = write_cases(tmp_path / "test", 10, 1)
    apply_calibrator(fitted, predictions, tmp_path / "once")
    with pytest.raises(ConfigError, match="was repaired already"):
        apply_calibrator(fitted, tmp_path / "once", tmp_path / "twice")


def test_done_again_it_replaces_itself_and_nothing_else(fitted: Path, tmp_path: Path) -> None:
    predictions, _ = write_cases(tmp_path / "test", 10, 1)
    first, again = (apply_calibrator(fitted, predictions, tmp_path / "out") for _ in range(2))
    assert first == again
    calibrate_predictions(*write_cases(tmp_path / "val", 0, 4), tmp_path / "v", method="vector")
    with pytest.raises(ConfigError, match="holds predictions of another run"):
        apply_calibrator(tmp_path / "v", predictions, tmp_path / "out")


def test_a_file_that_cannot_be_written_is_told_before_the_fit(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="is a folder; name a file in it"):
        calibrate_predictions(tmp_path / "nowhere", tmp_path / "nowhere", tmp_path)
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match="cannot be a folder: it, or one above it, is a file"):
        calibrate_predictions(tmp_path / "nowhere", tmp_path / "nowhere", tmp_path / "file" / "c")
    with pytest.raises(CheckpointError, match="is a folder, no saved calibrator"):
        calibrators.load(tmp_path)


@pytest.mark.fault(19)
def test_a_damaged_case_is_named_and_the_others_are_fitted(tmp_path: Path) -> None:
    predictions, labels = write_cases(tmp_path, 0, 3)
    whole = (predictions / "case_1.nii.gz").read_bytes()
    (predictions / "case_1.nii.gz").write_bytes(whole[: len(whole) // 2])
    found, refused = calibrate_predictions(predictions, labels, tmp_path / "c")
    assert [entry["case"] for entry in refused] == ["case_1"]
    assert found.facts["cases"] == ["case_0", "case_2"]


def test_regions_of_sigmoid_channels_are_refused_with_the_reason(tmp_path: Path) -> None:
    probs, label = smooth_case(0, 3, (12, 10, 8))
    case = Case("a", "a", ())
    sidecar = {"activation": "sigmoid", "groups": {"whole": [1, 2], "tumor": [2]}}
    write_prediction(tmp_path / "p", case, probs[1:].numpy(), LPS, LABELS, sidecar)
    write_volume(tmp_path / "l" / "a.nii.gz", label.numpy(), LPS)
    with pytest.raises(DataError, match="the channels are independent regions"):
        calibrate_predictions(tmp_path / "p", tmp_path / "l", tmp_path / "c")


def test_impossible_fits_say_why(tmp_path: Path) -> None:
    predictions, labels = write_cases(tmp_path, 0, 2)
    with pytest.raises(ConfigError, match="3 folds of 2 patients"):
        calibrate_predictions(predictions, labels, tmp_path / "c", folds=3)
    with pytest.raises(ConfigError, match="temperature has no option gama; known: search, criterion"):
        calibrate_predictions(predictions, labels, tmp_path / "c", options={"gama": 1})
    with pytest.raises(ConfigError, match="unknown calibrator 'temp'"):
        calibrate_predictions(predictions, labels, tmp_path / "c", method="temp")
    with pytest.raises(ConfigError, match="image_channels needs the images of a run"):
        calibrate_predictions(
            predictions, labels, tmp_path / "c", method="local_temperature", options={"image_channels": 1}
        )
    assert not (tmp_path / "c").exists()


def test_the_file_of_folds_survives_damage_with_a_message(tmp_path: Path) -> None:
    predictions, labels = write_cases(tmp_path, 0, 2)
    crossed, _ = calibrate_predictions(predictions, labels, tmp_path / "c", folds=2)
    crossed.facts["folds"][0]["parameters"] = {"temperature_": "hot"}
    crossed.save(tmp_path / "c")
    with pytest.raises(CheckpointError, match="its folds are damaged"):
        apply_calibrator(tmp_path / "c", predictions, tmp_path / "out")


def test_a_tensor_that_is_no_parameter_is_refused(fitted: Path, tmp_path: Path) -> None:
    calibrator = calibrators.load(fitted)
    calibrator.register_buffer("more_", torch.zeros(1))
    calibrator.save(tmp_path / "odd")
    with pytest.raises(CheckpointError, match="expected the parameters temperature, got more, temperature"):
        calibrators.load(tmp_path / "odd")
