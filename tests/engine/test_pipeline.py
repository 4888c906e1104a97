"""Train, predict, score, maps on a tiny phantom: files, numbers, and what happens to bad cases."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
from tiny import TINY

from medcalib.config import RunConfig, load
from medcalib.config.bundled import bundled
from medcalib.data.nifti import read_volume, write_volume
from medcalib.engine.evaluate import evaluate
from medcalib.engine.predict import predict
from medcalib.engine.train import train
from medcalib.errors import CheckpointError, ConfigError, DataRefusedError
from medcalib.metrics import CalibrationCounts
from medcalib.report.maps import write_maps


@pytest.fixture(scope="module")
def config(phantom: Path) -> RunConfig:
    return load(bundled()["phantom"], data=str(phantom), overrides=TINY)


@pytest.fixture(scope="module")
def run(config: RunConfig, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with its predictions of the test patients in `predictions`."""
    folder = tmp_path_factory.mktemp("run") / "run"
    train(config, folder)
    predict(folder, folder / "predictions")
    return folder


@pytest.fixture
def predictions(run: Path, tmp_path: Path) -> Path:
    """A copy that a test may damage."""
    return Path(shutil.copytree(run / "predictions", tmp_path / "predictions"))


def test_predictions_lie_on_the_image_grid(run: Path, phantom: Path) -> None:
    files = sorted((run / "predictions").glob("*.nii.gz"))
    assert [f.name for f in files] == [
        f"{case}.nii.gz" for case in json.loads((run / "split.json").read_text())["test"]
    ]
    for file in files:
        name = file.name.removesuffix(".nii.gz")
        image = nib.load(phantom / "testing" / name.split("_")[0] / f"{name}.nii.gz")
        found, segmentation = nib.load(file), nib.load(run / "predictions" / "segmentations" / file.name)
        assert found.shape == (*image.shape, 4)
        assert segmentation.shape == image.shape
        np.testing.assert_allclose(found.affine, image.affine, atol=1e-5)
        np.testing.assert_allclose(found.get_fdata().sum(-1), 1, atol=1e-5)
        np.testing.assert_array_equal(found.get_fdata().argmax(-1), segmentation.get_fdata())
        assert found.get_data_dtype() == np.float32
        assert segmentation.get_data_dtype() == np.uint8
        side = json.loads((run / "predictions" / f"{name}.json").read_text())
        assert side["class_names"] == ["background", "RV", "MYO", "LV"]
        assert side["activation"] == "softmax"


def test_scores_are_those_of_the_files(run: Path, phantom: Path, config: RunConfig, tmp_path: Path) -> None:
    scores = evaluate(run / "predictions", phantom, tmp_path / "scores", config=config)
    assert (scores["n_expected"], scores["n_scored"], scores["refused"]) == (4, 4, [])
    assert scores == json.loads((tmp_path / "scores" / "scores.json").read_text())
    total = CalibrationCounts.zeros(4)
    for name in scores["cases"]:
        probs = read_volume(run / "predictions" / f"{name}.nii.gz").array
        label = read_volume(phantom / "testing" / name.split("_")[0] / f"{name}_gt.nii.gz").array
        total += CalibrationCounts.from_probs(
            torch.from_numpy(np.moveaxis(probs, -1, 0).copy())[None], torch.from_numpy(label).long()[None]
        )
        predicted, truth = probs.argmax(-1) == 3, label == 3
        dice = 2 * (predicted & truth).sum() / (predicted.sum() + truth.sum())
        assert scores["cases"][name]["dice"]["LV"] == pytest.approx(dice)
    assert scores["pooled"]["all"]["ece"] == total.ece(15)
    assert scores["pooled"]["all"]["ece_true"] is not None
    assert scores["pooled"]["all"]["posterior_l1"] > 0
    mean = scores["mean"]["foreground"]["ece"]
    each = [case["regions"]["foreground"]["ece"] for case in scores["cases"].values()]
    assert mean["value"] == pytest.approx(np.mean(each))


def test_workers_change_nothing(run: Path, phantom: Path, config: RunConfig, tmp_path: Path) -> None:
    one = evaluate(run / "predictions", phantom, tmp_path / "one", config=config)
    two = evaluate(run / "predictions", phantom, tmp_path / "two", config=config, workers=2)
    assert one == two
    for name in one["cases"]:
        assert (tmp_path / "one" / f"{name}.npz").read_bytes() == (tmp_path / "two" / f"{name}.npz").read_bytes()


def test_a_flat_label_folder_gives_the_same_scores(run: Path, phantom: Path, config: RunConfig, tmp_path: Path) -> None:
    (tmp_path / "labels").mkdir()
    for file in (phantom / "testing").rglob("*_gt.nii.gz"):
        shutil.copy(file, tmp_path / "labels" / file.name.replace("_gt", ""))
    flat = evaluate(run / "predictions", tmp_path / "labels", tmp_path / "flat")
    full = evaluate(run / "predictions", phantom, tmp_path / "full", config=config)
    for region in full["pooled"]:
        assert flat["pooled"][region]["ece"] == full["pooled"][region]["ece"]


@pytest.mark.fault(20)
def test_bad_cases_are_recorded_and_the_others_scored(
    predictions: Path, phantom: Path, config: RunConfig, tmp_path: Path
) -> None:
    first, second, third, fourth = sorted(predictions.glob("*.nii.gz"))
    raw = bytearray(first.read_bytes())
    raw[len(raw) // 2] ^= 4
    first.write_bytes(raw)
    second.unlink()
    stored = read_volume(third)
    write_volume(third, stored.array * 4 - 2, stored.affine)
    scores = evaluate(predictions, phantom, tmp_path / "scores", config=config)
    assert (scores["n_expected"], scores["n_scored"]) == (4, 1)
    assert list(scores["cases"]) == [fourth.name.removesuffix(".nii.gz")]
    reasons = {entry["case"]: entry["reason"] for entry in scores["refused"]}
    names = [path.name.removesuffix(".nii.gz") for path in (first, second, third)]
    assert reasons == dict(zip(names, ["damaged_gzip", "missing_prediction", "looks_like_logits"], strict=True))
    assert "logits" in next(entry["message"] for entry in scores["refused"] if entry["case"] == names[2])


def test_no_folder_name_reaches_a_result(predictions: Path, phantom: Path, config: RunConfig, tmp_path: Path) -> None:
    private = predictions.rename(tmp_path / "Jane_Doe")
    first = sorted(private.glob("*.nii.gz"))[0]
    first.write_bytes(first.read_bytes()[:-30])
    evaluate(private, phantom, tmp_path / "scores", config=config)
    write_maps(private, phantom, tmp_path / "maps", data=config.data)
    written = [*(tmp_path / "scores").iterdir(), *(tmp_path / "maps").iterdir(), *private.glob("*.json")]
    assert len(written) > 20
    assert not [path.name for path in written if b"Jane_Doe" in path.read_bytes()]


def test_a_label_without_a_prediction_is_counted_in_a_flat_folder(
    predictions: Path, phantom: Path, tmp_path: Path
) -> None:
    (tmp_path / "labels").mkdir()
    for file in (phantom / "testing").rglob("*_gt.nii.gz"):
        shutil.copy(file, tmp_path / "labels" / file.name.replace("_gt", ""))
    sorted(predictions.glob("*.nii.gz"))[0].unlink()
    (predictions / "predictions.json").unlink()
    scores = evaluate(predictions, tmp_path / "labels", tmp_path / "scores")
    assert (scores["n_expected"], scores["n_scored"], scores["expected_from"]) == (4, 3, "labels")
    assert [entry["reason"] for entry in scores["refused"]] == ["missing_prediction"]


def test_a_case_with_other_classes_is_refused_not_mixed(predictions: Path, phantom: Path, tmp_path: Path) -> None:
    (tmp_path / "labels").mkdir()
    for file in (phantom / "testing").rglob("*_gt.nii.gz"):
        shutil.copy(file, tmp_path / "labels" / file.name.replace("_gt", ""))
    first, second = [path for path in sorted(predictions.glob("*.json")) if path.name != "predictions.json"][:2]
    meta = json.loads(first.read_text())
    second.write_text(json.dumps({**meta, "class_names": ["background", "a", "b", "c"]}))
    scores = evaluate(predictions, tmp_path / "labels", tmp_path / "scores")
    assert [(entry["case"], entry["reason"]) for entry in scores["refused"]] == [(second.stem, "class_order")]
    assert scores["n_scored"] == 3
    first.write_text(json.dumps({**meta, "codes": [[1], [0], [2], [3]]}))
    scores = evaluate(predictions, tmp_path / "labels", tmp_path / "again")
    refused = {entry["case"]: entry["message"] for entry in scores["refused"]}
    assert "the first class must be the background" in refused[first.stem]


def test_scores_of_an_interrupted_second_run_do_not_look_complete(
    run: Path, phantom: Path, config: RunConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    evaluate(run / "predictions", phantom, tmp_path / "scores", config=config)

    def stopped(job: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("medcalib.engine.evaluate.score_pair", stopped)
    with pytest.raises(KeyboardInterrupt):
        evaluate(run / "predictions", phantom, tmp_path / "scores", config=config)
    assert not (tmp_path / "scores" / "scores.json").exists()


def test_a_prediction_on_another_grid_is_refused_and_a_flipped_one_is_turned(
    predictions: Path, phantom: Path, config: RunConfig, tmp_path: Path
) -> None:
    before = evaluate(predictions, phantom, tmp_path / "before", config=config)
    first, second = sorted(predictions.glob("*.nii.gz"))[:2]
    volume = read_volume(first)
    flip = np.eye(4)
    flip[0, 0], flip[0, 3] = -1, volume.array.shape[0] - 1
    write_volume(first, volume.array[::-1], volume.affine @ flip)
    volume = read_volume(second)
    moved = volume.affine.copy()
    moved[0, 3] += 5
    write_volume(second, volume.array, moved)
    after = evaluate(predictions, phantom, tmp_path / "after", config=config)
    name = first.name.removesuffix(".nii.gz")
    assert after["cases"][name] == before["cases"][name]
    assert [entry["reason"] for entry in after["refused"]] == ["affine_mismatch"]


def test_an_empty_prediction_folder_is_refused(phantom: Path, config: RunConfig, tmp_path: Path) -> None:
    (tmp_path / "none").mkdir()
    with pytest.raises(DataRefusedError, match="no_prediction"):
        evaluate(tmp_path / "none", phantom, tmp_path / "scores", config=config)


def test_predictions_of_another_run_are_not_mixed(run: Path, predictions: Path) -> None:
    with pytest.raises(ConfigError, match="another run or split"):
        predict(run, predictions, split="val")


def test_a_case_that_cannot_be_read_is_recorded_by_predict(run: Path, phantom: Path, tmp_path: Path) -> None:
    data = Path(shutil.copytree(phantom, tmp_path / "data"))
    image = sorted((data / "testing").rglob("*_frame01.nii.gz"))[0]
    image.write_bytes(image.read_bytes()[:-20])
    index = predict(run, tmp_path / "predictions", data=str(data))
    assert [entry["reason"] for entry in index["refused"]] == ["damaged_gzip"]
    assert len(list((tmp_path / "predictions").glob("*.nii.gz"))) == 3


def test_a_folder_that_is_no_run_is_named(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="is no run folder"):
        predict(tmp_path, tmp_path / "out")


def test_maps_are_what_they_say(run: Path, phantom: Path, config: RunConfig, tmp_path: Path) -> None:
    index = write_maps(run / "predictions", phantom, tmp_path / "maps", data=config.data, window_mm=5)
    assert len(index["cases"]) == 4
    name = index["cases"][0]
    maps = {key: nib.load(tmp_path / "maps" / f"{name}_{key}.nii.gz") for key in index["maps"]}
    label = nib.load(phantom / "testing" / name.split("_")[0] / f"{name}_gt.nii.gz")
    probs = nib.load(run / "predictions" / f"{name}.nii.gz").get_fdata()
    arrays = {key: volume.get_fdata() for key, volume in maps.items()}
    assert all(volume.shape == label.shape for volume in maps.values())
    np.testing.assert_allclose(maps["gap"].affine, label.affine, atol=1e-5)
    np.testing.assert_allclose(arrays["confidence"], probs.max(-1), atol=1e-6)
    np.testing.assert_array_equal(arrays["error"], probs.argmax(-1) != label.get_fdata())
    np.testing.assert_array_equal(arrays["label"], label.get_fdata())
    spacing = label.header.get_zooms()
    size = [max(1, 2 * round((5 / edge - 1) / 2) + 1) for edge in map(float, spacing)]
    i, j, k = (n // 2 for n in label.shape)
    window = tuple(slice(c - s // 2, c + s // 2 + 1) for c, s in zip((i, j, k), size, strict=True))
    expected = (arrays["confidence"][window] - (1 - arrays["error"][window])).mean()
    assert arrays["gap"][i, j, k] == pytest.approx(expected, abs=1e-5)
    assert np.abs(arrays["true_gap"]).max() <= 1
