"""Scores of predictions as other tools leave them, from the files to `scores.json`."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from foreign import AFFINES, LABELS, REGIONS, write_nnunet
from helpers import smooth_case
from numpy.typing import NDArray

from medcalib.data.nifti import write_volume
from medcalib.engine.evaluate import evaluate
from medcalib.engine.merge import merge
from medcalib.errors import ConfigError, RefusedError
from medcalib.metrics import CalibrationCounts
from medcalib.report.maps import write_maps

SHAPE = (14, 12, 9)
AFFINE = AFFINES["LPS"]


def reference(folder: Path, label: NDArray[np.uint8], case: str = "c1") -> None:
    write_volume(folder / "labels" / f"{case}.nii.gz", label, AFFINE)


@pytest.fixture
def four(tmp_path: Path) -> tuple[Path, NDArray[np.float32], NDArray[np.uint8]]:
    """A folder with a reference of four classes, and a prediction of it that is not written yet."""
    probs, label = smooth_case(0, 4, SHAPE)
    reference(tmp_path, label.numpy())
    return tmp_path, probs.numpy(), label.numpy()


def score(folder: Path, **options: Any) -> dict[str, Any]:
    return evaluate(folder / "pred", folder / "labels", folder / "scores", **options)


def test_an_nnunet_folder_needs_no_config(four: Any) -> None:
    folder, probs, label = four
    write_nnunet(folder / "pred", probs, AFFINE)
    found = score(folder)
    assert (found["n_scored"], found["refused"]) == (1, [])
    counts = CalibrationCounts.from_probs(torch.from_numpy(probs)[None], torch.from_numpy(label)[None])
    assert found["pooled"]["all"]["ece"] == counts.ece()
    assert list(found["mean"]["dice"]) == ["RV", "MYO", "LV", "foreground"]
    assert str(folder) not in json.dumps(found)


def test_the_flip_of_a_reorienting_reader_is_never_scored_as_it_lies(four: Any) -> None:
    """It has the same shape; the turn that the affine predicts is applied, and said."""
    folder, probs, label = four
    write_nnunet(folder / "pred", probs, AFFINE, reader="NibabelIOWithReorient")
    found = score(folder)
    counts = CalibrationCounts.from_probs(torch.from_numpy(probs)[None], torch.from_numpy(label)[None])
    assert found["pooled"]["all"]["ece"] == counts.ece()
    assert any(warning.startswith("reoriented") for warning in found["cases"]["c1"]["warnings"])


def test_swapped_channels_are_refused_with_their_names(four: Any) -> None:
    folder, probs, _ = four
    write_nnunet(folder / "pred", probs[[0, 2, 1, 3]], AFFINE)
    found = score(folder)
    (refusal,) = found["refused"]
    assert refusal["reason"] == "class_order"
    assert "RV is found as MYO" in refusal["message"]
    assert not (folder / "scores" / "c1.npz").exists()


def test_regions_of_a_sigmoid_model_are_scored_one_by_one(tmp_path: Path) -> None:
    probs, label = smooth_case(1, 4, SHAPE)
    reference(tmp_path, label.numpy())
    p = probs.numpy()
    channels = np.stack([p[1] + p[2] + p[3], p[2] + p[3], p[3]])
    write_nnunet(tmp_path / "pred", channels, AFFINE, order=[1, 2, 3])
    found = score(tmp_path)
    assert (found["n_scored"], found["refused"]) == (1, [])
    pooled = found["pooled"]["all"]
    assert pooled["ece"] is None
    names = [name for name in REGIONS if name != "background"]
    assert list(found["mean"]["dice"])[:3] == names
    binary = np.stack([1 - channels[0], channels[0]])
    whole = CalibrationCounts.from_probs(torch.from_numpy(binary)[None], (label > 0).long()[None])
    assert pooled["classwise_ece"]["whole tumor"] == pytest.approx(float(whole.classwise_ece()[1]), abs=1e-12)


def test_logits_are_declared_not_guessed(four: Any) -> None:
    folder, probs, _ = four
    logits = np.log(np.maximum(probs, 1e-6)) + 3
    write_nnunet(folder / "pred", logits.astype(np.float32), AFFINE)
    (refusal,) = score(folder)["refused"]
    assert refusal["reason"] == "looks_like_logits"
    assert "--logits" in refusal["message"]
    assert score(folder, assume_logits=True)["n_scored"] == 1


def test_an_array_without_a_map_needs_the_callers_word(four: Any) -> None:
    folder, probs, _ = four
    write_nnunet(folder / "pred", probs, AFFINE, with_map=False, plans=False)
    (refusal,) = score(folder)["refused"]
    assert refusal["reason"] == "orientation_unproved"
    assert score(folder, assume_orientation=True)["n_scored"] == 1


def test_masks_are_regions_and_decide_what_is_reused(four: Any) -> None:
    folder, probs, label = four
    write_nnunet(folder / "pred", probs, AFFINE)
    half = np.zeros(SHAPE, np.uint8)
    half[:7] = 1
    write_volume(folder / "half" / "c1.nii.gz", half, AFFINE)
    found = score(folder, masks={"half": folder / "half"})
    assert found["pooled"]["half"]["voxels"] == half.sum()
    counts = CalibrationCounts.from_probs(
        torch.from_numpy(probs)[None], torch.from_numpy(label)[None], mask=torch.from_numpy(half)[None] > 0
    )
    assert found["pooled"]["half"]["ece"] == counts.ece()
    write_volume(folder / "half" / "c1.nii.gz", 1 - half, AFFINE)
    assert score(folder, masks={"half": folder / "half"})["pooled"]["half"]["voxels"] == (1 - half).sum()
    (folder / "half" / "c1.nii.gz").unlink()
    (refusal,) = score(folder, masks={"half": folder / "half"})["refused"]
    assert refusal["reason"] == "missing_mask"


def test_protocols_stand_beside_the_scores(four: Any) -> None:
    folder, probs, _ = four
    write_nnunet(folder / "pred", probs, AFFINE)
    names = ["marginloss", "svls", "monai", "acl"]
    found = score(folder, protocols=names)
    assert list(found["protocols"]) == names
    assert all(found["protocols"][name]["cases"]["c1"] for name in names)
    with pytest.raises(ConfigError, match="unknown protocol 'mbls'"):
        score(folder, protocols=["mbls"])


def test_every_reader_gives_the_same_bytes(four: Any) -> None:
    """One NIfTI a class, a whole one, an array: the counts are those of the probabilities."""
    folder, probs, _ = four
    codes = {"class_names": list(LABELS), "codes": [[code] for code in LABELS.values()]}
    ways = {name: folder / name / "pred" for name in ("whole", "classes", "array")}
    write_volume(ways["whole"] / "c1.nii.gz", np.moveaxis(probs, 0, -1), AFFINE)
    for k, name in enumerate(LABELS):
        write_volume(ways["classes"] / f"c1_{name}.nii.gz", probs[k], AFFINE)
    ways["array"].mkdir(parents=True)
    np.save(ways["array"] / "c1.npy", probs)
    found = {}
    for name, pred in ways.items():
        (pred / "c1.json").write_text(json.dumps({**codes, "axes": "ijk"} if name == "array" else codes))
        scores = evaluate(pred, folder / "labels", folder / name / "scores")
        assert scores["refused"] == []
        found[name] = scores["pooled"]
    assert found["whole"] == found["classes"] == found["array"]


def test_scores_are_never_written_over_predictions(four: Any) -> None:
    """nnU-Net's predictions bear the names of case scores."""
    folder, probs, _ = four
    path = write_nnunet(folder / "pred", probs, AFFINE)
    before = path.read_bytes()
    for out in (folder / "pred", folder / "labels"):
        with pytest.raises(ConfigError, match="is a folder that is read from"):
            evaluate(folder / "pred", folder / "labels", out)
    other = folder / "other"
    other.mkdir()
    (other / path.name).write_bytes(before)
    with pytest.raises(ConfigError, match=r"c1.npz holds probabilities.npy and no scores"):
        evaluate(folder / "pred", folder / "labels", other)
    score(folder)
    with pytest.raises(ConfigError, match="and no scores; choose another folder"):
        merge([folder / "scores"], other)
    with pytest.raises(ConfigError, match="is a folder that is read from"):
        write_maps(folder / "pred", folder / "labels", folder / "pred")
    assert path.read_bytes() == (other / path.name).read_bytes() == before


def test_a_strict_run_that_cannot_begin_leaves_the_scores_of_another(four: Any) -> None:
    folder, probs, label = four
    write_nnunet(folder / "pred", probs, AFFINE)
    score(folder)
    reference(folder, label, "c2")
    with pytest.raises(RefusedError, match=r"^c2: no prediction c2\.nii\.gz.*\[missing_prediction\]$"):
        score(folder, strict=True)
    assert (folder / "scores" / "scores.json").is_file()


def test_maps_take_the_same_word_as_scores(four: Any) -> None:
    folder, probs, _ = four
    write_nnunet(folder / "pred", np.log(np.maximum(probs, 1e-6)) + 3, AFFINE, with_map=False, plans=False)
    assert write_maps(folder / "pred", folder / "labels", folder / "maps")["cases"] == []
    options = {"assume_logits": True, "assume_orientation": True}
    assert write_maps(folder / "pred", folder / "labels", folder / "maps", **options)["cases"] == ["c1"]


def test_scores_with_a_damaged_directory_are_made_again(four: Any) -> None:
    """The archive still ends as one, but its list of members is broken."""
    folder, probs, _ = four
    write_nnunet(folder / "pred", probs, AFFINE)
    expected = score(folder)
    path = folder / "scores" / "c1.npz"
    path.write_bytes(path.read_bytes().replace(b"PK\x01\x02", b"XX\x01\x02", 1))
    assert zipfile.is_zipfile(path)
    assert score(folder) == expected
