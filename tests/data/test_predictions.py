"""Prediction folders: what is written is read back, and what does not fit its reference is refused by name."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from helpers import smooth_case
from numpy.testing import assert_allclose, assert_array_equal

from medcalib.data.case import Case
from medcalib.data.labels import LabelMap
from medcalib.data.nifti import read_volume, write_volume
from medcalib.data.predictions import (
    INDEX,
    Pair,
    expected_cases,
    flat_references,
    label_map_of,
    labels_for,
    list_predictions,
    pair_up,
    read_pair,
    without_folders,
    write_prediction,
)
from medcalib.errors import DataError

AFFINE = np.array([[-2.0, 0, 0, 30], [0, -3.0, 0, 40], [0, 0, 5.0, -50], [0, 0, 0, 1]])
BRATS = LabelMap(("background", "NCR", "ED", "ET"), ((0,), (1,), (2,), (4,)), 9)
PROBS, LABELS = (t.numpy() for t in smooth_case(0, shape=(6, 7, 8)))
CODES = BRATS.decode(LABELS)
Write = Callable[..., Path]


@pytest.fixture
def predicted(tmp_path: Path) -> Path:
    """A prediction folder of one case, c1, whose reference is label.nii.gz beside it."""
    case = Case("c1", "p1", ())
    write_prediction(tmp_path / "pred", case, PROBS, AFFINE, BRATS, {"software": "here"})
    write_volume(tmp_path / "label.nii.gz", BRATS.decode(LABELS), AFFINE)
    return tmp_path / "pred"


def pair(predicted: Path, label: Path | None = None) -> Pair:
    return Pair(Case("c1", "p1", (), label or predicted.parent / "label.nii.gz"), predicted / "c1.nii.gz")


def reason(pair: Pair, label_map: LabelMap = BRATS) -> str:
    with pytest.raises(DataError) as caught:
        read_pair(pair, label_map)
    return caught.value.reason


def test_what_is_written_is_read_back_to_the_bit(predicted: Path) -> None:
    found = read_pair(pair(predicted), label_map_of(predicted / "c1.nii.gz"))
    assert_array_equal(found.probs, PROBS)
    assert_array_equal(found.label, LABELS)
    assert_allclose(found.affine, AFFINE)
    assert found.posterior is None


def test_the_sidecar_says_what_was_predicted(predicted: Path) -> None:
    sidecar = json.loads((predicted / "c1.json").read_text())
    assert sidecar == {
        "case": "c1",
        "activation": "softmax",
        "class_names": ["background", "NCR", "ED", "ET"],
        "codes": [[0], [1], [2], [4]],
        "ignore_code": 9,
        "software": "here",
    }
    assert label_map_of(predicted / "c1.nii.gz") == BRATS


def test_the_segmentation_has_the_codes_of_the_dataset_and_the_grid_of_the_image(predicted: Path) -> None:
    segmentation = read_volume(predicted / "segmentations/c1.nii.gz", dtype=None)
    assert segmentation.array.dtype == np.uint8
    assert_array_equal(segmentation.array, np.array([0, 1, 2, 4])[PROBS.argmax(0)])
    assert_allclose(segmentation.affine, AFFINE)
    assert not nib.load(predicted / "c1.nii.gz").header["descrip"].item()


def test_a_prediction_in_another_orientation_is_turned_where_affines_prove_it(predicted: Path) -> None:
    flip = np.diag([-1.0, 1, 1, 1])
    flip[0, 3] = PROBS.shape[1] - 1
    write_volume(predicted / "c1.nii.gz", np.moveaxis(PROBS, 0, -1)[::-1], AFFINE @ flip)
    assert_array_equal(read_pair(pair(predicted), BRATS).probs, PROBS)


@pytest.mark.fault(46)
def test_another_grid_shape_or_number_of_classes_is_refused(predicted: Path, volume: Write) -> None:
    moved = AFFINE.copy()
    moved[2, 3] += 5
    assert reason(pair(predicted, volume("moved.nii.gz", CODES, moved))) == "affine_mismatch"
    assert reason(pair(predicted, volume("cut.nii.gz", CODES[1:], AFFINE))) == "shape_mismatch"
    (predicted / "c1.json").unlink()
    three = LabelMap.consecutive(["background", "a", "b"])
    assert reason(pair(predicted, volume("three.nii.gz", np.minimum(LABELS, 2), AFFINE)), three) == "channel_count"
    write_volume(predicted / "c1.nii.gz", PROBS[0], AFFINE)
    assert reason(pair(predicted)) == "channel_count"


@pytest.mark.fault(56)
def test_missing_partners_are_named_on_both_sides(predicted: Path, volume: Write) -> None:
    write_volume(predicted / "c3.nii.gz", np.moveaxis(PROBS, 0, -1), AFFINE)
    references = {name: Case(name, name, (), volume(f"{name}.nii.gz", LABELS)) for name in ("c1", "c2")}
    references["c4"] = Case("c4", "c4", ())
    pairs, refused = pair_up(predicted, references, ["c1", "c2", "../c5"])
    assert [p.case.id for p in pairs] == ["c1"]
    assert [(r["case"], r["reason"]) for r in refused] == [
        ("../c5", "unsafe_case_id"),
        ("c2", "missing_prediction"),
        ("c3", "missing_reference"),
    ]


def test_expected_cases_are_those_of_the_index_else_every_label_of_a_flat_folder(predicted: Path) -> None:
    references = {name: Case(name, name, ()) for name in ("c1", "c2", "c3")}
    assert expected_cases(predicted, references, flat=True) == ({"c1", "c2", "c3"}, "labels")
    assert expected_cases(predicted, references, flat=False) == ({"c1"}, "predictions")
    (predicted / INDEX).write_text('{"cases": ["c1", "c2"]}')
    assert expected_cases(predicted, references, flat=True) == ({"c1", "c2"}, "index")


@pytest.mark.fault(46)
def test_a_sidecar_may_not_contradict_the_config(predicted: Path) -> None:
    prediction = predicted / "c1.nii.gz"
    own = label_map_of(prediction)
    assert labels_for(prediction, None) == labels_for(prediction, own) == own
    turned = LabelMap(own.class_names[::-1], own.codes[::-1])
    with pytest.raises(DataError, match="says that the channels are") as caught:
        labels_for(prediction, turned)
    assert caught.value.reason == "class_order"
    prediction.with_name("c1.json").unlink()
    assert labels_for(prediction, turned) == turned


def test_messages_lose_the_folders_they_came_from(tmp_path: Path) -> None:
    folder = tmp_path / "Jane_Doe"
    message = f"{folder / 'a.nii.gz'} is damaged; {folder} is bad"
    assert without_folders(message, tmp_path / "Jane_Doe") == "a.nii.gz is damaged; Jane_Doe is bad"


@pytest.mark.parametrize("content", ["[]", "{}", '{"cases": 3}', "{"])
def test_a_broken_index_is_refused(predicted: Path, content: str) -> None:
    (predicted / INDEX).write_text(content)
    with pytest.raises(DataError, match=INDEX):
        expected_cases(predicted, {}, flat=True)


@pytest.mark.fault(11, 46)
@pytest.mark.parametrize(
    "content",
    [
        "[]",
        "3",
        "{}",
        '{"class_names": ["a", "b"]}',
        '{"class_names": ["a", "b"], "codes": [0, 1]}',
        '{"class_names": ["a", "b"], "codes": [[0]]}',
        '{"class_names": ["a", "b"], "codes": [[0], []]}',
        '{"class_names": ["a", "b"], "codes": [[0], ["x"]]}',
        '{"class_names": ["a", "b"], "codes": [[0], [1]], "ignore_code": "x"}',
        '{"class_names": ["a", "b"], "codes": [[0], [Infinity]]}',
        '{"class_names": ["a", "b"], "codes": [[0], [1.5]]}',
        '{"class_names": ["a", "b"], "codes": [[0], [true]]}',
        '{"class_names": ["a", "b"], "codes": [[0], [70000]]}',
        '{"class_names": ["a", "a"], "codes": [[0], [1]]}',
        '{"class_names": ["a", "b\\u001b"], "codes": [[0], [1]]}',
        '{"class_names": ["a", "b"], "codes": [[0], [1]], "ignore_code": 1e999}',
        '{"class_names": ["a", "b"], "codes": [[0], [1]], "scale": ' + "9" * 400 + "}",
    ],
)
def test_a_bad_sidecar_is_refused_with_a_way_out(predicted: Path, content: str) -> None:
    (predicted / "c1.json").write_text(content)
    with pytest.raises(DataError, match="; correct it") as caught:
        label_map_of(predicted / "c1.nii.gz")
    assert caught.value.reason == "bad_sidecar"


def test_a_missing_sidecar_is_refused_with_a_way_out(predicted: Path) -> None:
    (predicted / "c1.json").unlink()
    with pytest.raises(DataError, match="pass --config"):
        label_map_of(predicted / "c1.nii.gz")


def test_a_missing_folder_is_refused(tmp_path: Path) -> None:
    for read in (list_predictions, flat_references):
        with pytest.raises(DataError, match="is no folder of"):
            read(tmp_path / "absent")


def test_a_flat_folder_of_references_takes_its_posteriors_along(volume: Write) -> None:
    label = volume("labels/a.nii.gz", LABELS)
    known = volume("labels/a_posterior.nii.gz", np.moveaxis(PROBS, 0, -1))
    (label.parent / "._a.nii.gz").write_bytes(b"junk")
    assert flat_references(label.parent) == {"a": Case("a", "a", (), label, None, known)}


def test_the_known_posterior_comes_on_the_grid_of_the_label(predicted: Path, volume: Write) -> None:
    known = volume("known.nii.gz", np.moveaxis(PROBS, 0, -1)[:, ::-1], AFFINE @ np.array(
        [[1.0, 0, 0, 0], [0, -1, 0, PROBS.shape[2] - 1], [0, 0, 1, 0], [0, 0, 0, 1]]))  # fmt: skip
    case = Case("c1", "p1", (), predicted.parent / "label.nii.gz", None, known)
    assert_array_equal(read_pair(Pair(case, predicted / "c1.nii.gz"), BRATS).posterior, PROBS)
