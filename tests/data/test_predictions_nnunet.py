"""nnU-Net's .npz: every reader and grid gives the very probabilities, or a refusal that names the cause."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from foreign import AFFINES, LABELS, READERS, REGIONS, painted, pair_of, write_nnunet
from helpers import smooth_case
from numpy.testing import assert_array_equal

from medcalib.data.labels import LabelMap
from medcalib.data.nifti import write_volume
from medcalib.data.predictions import Compared, channels_of, label_map_of, labels_for, read_pair
from medcalib.errors import DataError

PROBS, TRUE = (t.numpy() for t in smooth_case(3, shape=(6, 6, 7)))
HEART = LabelMap.consecutive(list(LABELS))
LPS = AFFINES["LPS"]
TUMOR = np.stack([PROBS[1:].sum(0), PROBS[2:].sum(0), PROBS[3]])
TUMOR_MAP = LabelMap(("background", "label 1", "label 2", "enhancing"), ((0,), (1,), (2,), (3,)))


@pytest.fixture
def label(tmp_path: Path) -> Path:
    write_volume(tmp_path / "label.nii.gz", TRUE, LPS)
    return tmp_path / "label.nii.gz"


def read(npz: Path, label: Path, **options: bool) -> Compared:
    return read_pair(pair_of(npz, label), label_map_of(npz), **options)


def refusal(npz: Path, label: Path, **options: bool) -> DataError:
    with pytest.raises(DataError) as caught:
        read(npz, label, **options)
    return caught.value


def refused(npz: Path, label: Path, **options: bool) -> str:
    return refusal(npz, label, **options).reason


def codes(found: Compared) -> list[str]:
    return [text.split(":")[0] for text in found.warnings]


@pytest.mark.fault(47)
@pytest.mark.parametrize("axes", AFFINES)
@pytest.mark.parametrize("reader", READERS)
def test_47_every_reader_gives_the_probabilities_on_the_grid_of_the_reference(
    tmp_path: Path, axes: str, reader: str
) -> None:
    affine = AFFINES[axes]
    write_volume(tmp_path / "label.nii.gz", TRUE, affine)
    npz = write_nnunet(tmp_path / "pred", PROBS, affine, reader=reader, plans=False)
    found = read(npz, tmp_path / "label.nii.gz")
    assert_array_equal(found.probs, PROBS)
    turned = reader.endswith("WithReorient") and axes != "RAS"
    assert codes(found) == ["reoriented"] * turned
    assert (found.activation, found.groups, found.channel_names) == ("softmax", None, tuple(LABELS))


@pytest.mark.fault(47)
def test_47_a_flip_that_no_affine_explains_is_refused_and_named(tmp_path: Path, label: Path) -> None:
    npz = write_nnunet(tmp_path / "pred", PROBS[:, :, ::-1], LPS, plans=False)
    write_volume(npz.with_name("c1.nii.gz"), PROBS.argmax(0).astype(np.uint8), LPS)
    for options in ({}, {"assume_orientation": True}):
        error = refusal(npz, label, **options)
        assert error.reason == "orientation_mismatch"
        assert "(C, k, -j, i)" in str(error)


@pytest.mark.fault(47)
def test_47_axes_in_the_order_of_nibabel_are_refused(tmp_path: Path, label: Path) -> None:
    npz = write_nnunet(tmp_path / "pred", PROBS, LPS)
    np.savez_compressed(npz, probabilities=PROBS)
    error = refusal(npz, label)
    assert (error.reason, "(C, i, j, k)" in str(error)) == ("orientation_mismatch", True)


@pytest.mark.fault(47)
def test_47_without_a_proof_the_user_must_vouch_for_the_axes(tmp_path: Path, label: Path) -> None:
    npz = write_nnunet(tmp_path / "pred", PROBS, LPS, with_map=False)
    error = refusal(npz, label)
    assert (error.reason, "--assume-orientation" in str(error)) == ("orientation_unproved", True)
    found = read(npz, label, assume_orientation=True)
    assert_array_equal(found.probs, PROBS)
    assert codes(found) == ["orientation_assumed"]


@pytest.mark.fault(47)
def test_47_an_assumed_reorienting_reader_is_turned_by_the_affine(tmp_path: Path, label: Path) -> None:
    npz = write_nnunet(tmp_path / "pred", PROBS, LPS, with_map=False, reader="NibabelIOWithReorient")
    assert_array_equal(read(npz, label, assume_orientation=True).probs, PROBS)


@pytest.mark.fault(47)
@pytest.mark.parametrize("reader", READERS)
def test_47_an_empty_label_map_proves_nothing_but_plans_json_names_the_reader(
    tmp_path: Path, label: Path, reader: str
) -> None:
    empty = PROBS.copy()
    empty[0] += 20
    empty /= empty.sum(0)
    npz = write_nnunet(tmp_path / "pred", empty, LPS, reader=reader)
    assert_array_equal(read(npz, label).probs, empty)
    for content in ("{", "[]", '{"image_reader_writer": 3}'):
        npz.with_name("plans.json").write_text(content)
        assert refused(npz, label) == "orientation_unproved"


@pytest.mark.fault(47)
def test_47_an_empty_label_map_without_plans_needs_the_user(tmp_path: Path, label: Path) -> None:
    empty = np.stack([np.full_like(PROBS[0], 0.75), PROBS[1] / 4, PROBS[2] / 4, (PROBS[0] + PROBS[3]) / 4])
    npz = write_nnunet(tmp_path / "pred", empty, LPS, plans=False)
    found = read(npz, label, assume_orientation=True)
    assert_array_equal(found.probs, empty)
    assert codes(found) == ["orientation_assumed"]


@pytest.mark.fault(47)
def test_47_a_label_map_changed_afterwards_is_refused_unless_the_user_vouches(tmp_path: Path, label: Path) -> None:
    npz = write_nnunet(tmp_path / "pred", PROBS, LPS)
    drawn = PROBS.argmax(0).astype(np.uint8)
    drawn[0, 0] = (drawn[0, 0] + 1) % 4
    write_volume(npz.with_name("c1.nii.gz"), drawn, LPS)
    error = refusal(npz, label)
    assert error.reason == "map_disagrees"
    assert f"{100 * 7 / drawn.size:.3g} % of the voxels" in str(error)
    found = read(npz, label, assume_orientation=True)
    assert_array_equal(found.probs, PROBS)
    assert codes(found) == ["map_disagrees"]


@pytest.mark.fault(47)
def test_47_a_label_map_that_lost_a_part_is_refused(tmp_path: Path, label: Path) -> None:
    npz = write_nnunet(tmp_path / "pred", PROBS, LPS)
    drawn = PROBS.argmax(0).astype(np.uint8)
    drawn[tuple(np.argwhere(drawn)[0])] = 0  # all that is left of the foreground agrees
    write_volume(npz.with_name("c1.nii.gz"), drawn, LPS)
    assert refused(npz, label) == "map_disagrees"


@pytest.mark.fault(35)
def test_35_a_label_map_on_another_grid_than_the_reference_is_turned_where_affines_prove_it(tmp_path: Path) -> None:
    flip = np.diag([1.0, -1, 1, 1])
    flip[1, 3] = PROBS.shape[2] - 1
    write_volume(tmp_path / "label.nii.gz", TRUE[:, ::-1], LPS @ flip)
    npz = write_nnunet(tmp_path / "pred", PROBS, LPS)
    found = read(npz, tmp_path / "label.nii.gz")
    assert_array_equal(found.probs, PROBS[:, :, ::-1])
    assert_array_equal(found.label, TRUE[:, ::-1])
    moved = LPS.copy()
    moved[2, 3] += 9
    write_volume(tmp_path / "label.nii.gz", TRUE, moved)
    assert refused(npz, tmp_path / "label.nii.gz") == "affine_mismatch"


@pytest.mark.fault(54)
def test_54_ties_between_classes_are_no_disagreement(tmp_path: Path, label: Path) -> None:
    tied = PROBS.copy()
    tied[:, 2, 3] = np.array([np.nextafter(np.float32(0.4), np.float32(1)), 0.4, 0.1, 0.1], np.float32)[:, None]
    npz = write_nnunet(tmp_path / "pred", tied, LPS)
    drawn = tied.argmax(0).astype(np.uint8)
    drawn[2, 3] = 1  # argmax would say 0
    write_volume(npz.with_name("c1.nii.gz"), drawn, LPS)
    assert_array_equal(read(npz, label).probs, tied)
    drawn[2, 3] = 2
    write_volume(npz.with_name("c1.nii.gz"), drawn, LPS)
    assert refused(npz, label) == "map_disagrees"


@pytest.mark.fault(54)
def test_54_ties_at_the_threshold_of_a_region_are_no_disagreement(tmp_path: Path, label: Path) -> None:
    tied = TUMOR.copy()
    tied[:, 2, 3] = np.array([0.9, np.nextafter(np.float32(0.5), np.float32(1)), 0.1], np.float32)[:, None]
    npz = write_nnunet(tmp_path / "pred", tied, LPS, order=[1, 2, 3])
    drawn = painted(tied, [1, 2, 3])
    assert (drawn[2, 3] == 2).all()
    drawn[2, 3] = 1
    write_volume(npz.with_name("c1.nii.gz"), drawn, LPS)
    assert_array_equal(next(read(npz, label).slabs())[1], tied)
    drawn[2, 3] = 3
    write_volume(npz.with_name("c1.nii.gz"), drawn, LPS)
    assert refused(npz, label) == "map_disagrees"


def test_a_single_slice_is_no_symmetry(tmp_path: Path) -> None:
    write_volume(tmp_path / "label.nii.gz", TRUE[..., :1], LPS)
    npz = write_nnunet(tmp_path / "pred", PROBS[..., :1], LPS, plans=False)
    assert_array_equal(read(npz, tmp_path / "label.nii.gz").probs, PROBS[..., :1])


def test_a_4d_volume_beside_an_array_is_no_label_map(tmp_path: Path, label: Path) -> None:
    npz = write_nnunet(tmp_path / "pred", PROBS, LPS)
    write_volume(npz.with_name("c1.nii.gz"), np.moveaxis(PROBS, 0, -1), LPS)
    assert refused(npz, label) == "bad_shape"


def test_declared_logits_of_an_array_are_proved_like_probabilities(tmp_path: Path, label: Path) -> None:
    npz = write_nnunet(tmp_path / "pred", np.log(PROBS), LPS)
    found = read(npz, label, assume_logits=True)
    assert found.activation == "logits"
    assert_array_equal(next(found.slabs())[1], np.log(PROBS))
    assert refused(npz, label) == "looks_like_logits"


def test_logits_of_regions_are_refused(tmp_path: Path, label: Path) -> None:
    npz = write_nnunet(tmp_path / "pred", TUMOR, LPS, order=[1, 2, 3])
    assert refused(npz, label, assume_logits=True) == "activation_conflict"


@pytest.mark.fault(48)
def test_48_version_1_whole_is_read_and_cropped_is_refused_with_the_cause(tmp_path: Path, label: Path) -> None:
    half = PROBS.astype(np.float16)
    npz = write_nnunet(tmp_path / "pred", half, LPS, key="softmax")
    found = read(npz, label)
    assert_array_equal(found.probs, half.astype(np.float32))
    assert codes(found) == ["float16_probabilities"]
    np.savez_compressed(npz, softmax=half.transpose(0, 3, 2, 1)[:, 1:, 1:])
    error = refusal(npz, label, assume_orientation=True)
    assert (error.reason, "cropped" in str(error)) == ("cropped_npz", True)


@pytest.mark.fault(48)
def test_48_probabilities_in_model_space_are_refused_with_the_cause(tmp_path: Path, label: Path) -> None:
    npz = write_nnunet(tmp_path / "pred", PROBS, LPS)
    np.savez_compressed(npz, probabilities=np.repeat(PROBS.transpose(0, 3, 2, 1), 2, 1))
    error = refusal(npz, label)
    assert error.reason == "model_space_npz"
    assert "TotalSegmentator" in str(error)
    assert "resample" in str(error)


@pytest.mark.fault(49)
def test_49_region_models_are_groups_of_classes_proved_by_what_they_paint(tmp_path: Path, label: Path) -> None:
    npz = write_nnunet(tmp_path / "pred", TUMOR, LPS, order=[1, 2, 3], plans=False)
    assert label_map_of(npz) == TUMOR_MAP
    found = read(npz, label)
    assert (found.activation, found.groups) == ("sigmoid", ((1, 2, 3), (2, 3), (3,)))
    assert found.channel_names == ("whole tumor", "tumor core", "enhancing")
    assert_array_equal(np.concatenate([part for _, part in found.slabs(50)], -1), TUMOR)
    with pytest.raises(DataError, match="independent regions") as caught:
        _ = found.probs
    assert caught.value.reason == "region_probabilities"


@pytest.mark.fault(49)
def test_49_a_flipped_region_model_is_caught(tmp_path: Path, label: Path) -> None:
    npz = write_nnunet(tmp_path / "pred", TUMOR, LPS, order=[1, 2, 3], plans=False)
    np.savez_compressed(npz, probabilities=TUMOR.transpose(0, 3, 2, 1)[..., ::-1])
    assert refused(npz, label) == "orientation_mismatch"


@pytest.mark.fault(49)
def test_49_a_region_model_without_its_order_of_painting_has_no_proof(tmp_path: Path, label: Path) -> None:
    npz = write_nnunet(tmp_path / "pred", TUMOR, LPS, order=[1, 2, 3])
    npz.with_name("dataset.json").write_text(json.dumps({"labels": REGIONS}))
    assert refused(npz, label) == "orientation_unproved"
    assert read(npz, label, assume_orientation=True).groups == ((1, 2, 3), (2, 3), (3,))


def cropped(channels: np.ndarray, background: float) -> np.ndarray:
    whole = np.zeros((len(channels), 9, 8, 7), np.float32)
    whole[0] = background
    whole[:, 1:7, 2:8, :] = channels
    return whole


@pytest.mark.parametrize("regions", [False, True])
def test_background_outside_the_crop_is_counted_and_given(tmp_path: Path, regions: bool) -> None:
    whole = cropped(TUMOR, 0.0) if regions else cropped(PROBS, 1.0)
    write_volume(tmp_path / "label.nii.gz", np.zeros((9, 8, 7), np.uint8), LPS)
    npz = write_nnunet(tmp_path / "pred", whole, LPS, order=[1, 2, 3] if regions else None)
    found = read(npz, tmp_path / "label.nii.gz")
    expected = np.ones((9, 8, 7), bool)
    expected[1:7, 2:8] = False
    assert_array_equal(found.outside, expected)
    (text,) = found.warnings
    assert text.startswith("filled_background: 252 voxels (50 %)")


def test_no_crop_is_seen_where_background_is_only_nearly_certain(tmp_path: Path) -> None:
    whole = cropped(PROBS, 1.0)
    whole[1, [0, -1], [0, -1]] = 1e-30  # float32 still rounds the background to 1
    write_volume(tmp_path / "label.nii.gz", np.zeros((9, 8, 7), np.uint8), LPS)
    found = read(write_nnunet(tmp_path / "pred", whole, LPS), tmp_path / "label.nii.gz")
    assert (found.outside, found.warnings) == (None, ())


@pytest.mark.parametrize("place", ["..", ""])
def test_classes_come_from_dataset_json_beside_the_predictions_or_above(tmp_path: Path, place: str) -> None:
    npz = write_nnunet(tmp_path / "run/pred", PROBS, LPS)
    (npz.parent / "dataset.json").rename(npz.parent / place / "dataset.json")
    assert label_map_of(npz) == HEART


def test_classes_of_the_validation_of_a_fold_come_from_the_training_folder(tmp_path: Path) -> None:
    npz = write_nnunet(tmp_path / "trainer/fold_0/validation", PROBS, LPS)
    (npz.parent / "dataset.json").rename(tmp_path / "trainer/dataset.json")
    assert label_map_of(npz) == HEART


def test_probabilities_without_dataset_json_are_told_what_to_copy_and_not_that_folders_are_swapped(
    tmp_path: Path, label: Path
) -> None:
    npz = write_nnunet(tmp_path / "pred", PROBS, LPS)
    moved = npz.with_name("dataset.json").rename(tmp_path / "moved.json")
    error = refusal(npz, label)
    assert error.reason == "missing_sidecar"
    assert "; copy dataset.json, and plans.json, which nnU-Net writes beside its predictions" in str(error)
    assert "swapped" not in str(error)
    moved.rename(npz.with_name("dataset.json"))
    assert_array_equal(read(npz, label).probs, PROBS)


def test_another_file_named_dataset_json_above_is_no_description(tmp_path: Path) -> None:
    npz = write_nnunet(tmp_path / "pred", PROBS, LPS)
    npz.with_name("dataset.json").unlink()
    (tmp_path / "dataset.json").write_text('{"rows": 3}')
    with pytest.raises(DataError, match="pass --config") as caught:
        label_map_of(npz)
    assert caught.value.reason == "missing_sidecar"


@pytest.mark.fault(11)
@pytest.mark.parametrize(
    "content",
    [
        {},
        {"labels": []},
        {"labels": {"background": 1, "a": 2}},
        {"labels": {"background": 0, "a": 2}},
        {"labels": {"background": 0, "a": 1, "b": 1}},
        {"labels": {"background": 0, "a": "x"}},
        {"labels": {"background": 0, "a": float("inf")}},
        {"labels": {"background": 0, "a": 1, "ignore": []}},
        {"labels": {"background": 0, "a": 1, "b": []}},
        {"labels": {"background": 0, "a\n": 1}},
        {"labels": REGIONS, "regions_class_order": [1, 2]},
        {"labels": REGIONS, "regions_class_order": [1, 2, 9]},
    ],
)
def test_a_dataset_json_that_means_no_classes_is_refused(tmp_path: Path, content: dict[str, object]) -> None:
    npz = write_nnunet(tmp_path / "pred", PROBS, LPS)
    npz.with_name("dataset.json").write_text(json.dumps(content))
    with pytest.raises(DataError) as caught:
        label_map_of(npz)
    assert caught.value.reason == "bad_dataset_json"


def test_both_forms_of_dataset_json_and_the_ignored_label_are_understood(tmp_path: Path) -> None:
    npz = write_nnunet(tmp_path / "pred", PROBS, LPS)
    first = {"10": "j", **{str(code): name for name, code in LABELS.items()}, **{str(k): f"c{k}" for k in range(4, 10)}}
    npz.with_name("dataset.json").write_text(json.dumps({"labels": first}))
    assert label_map_of(npz).class_names == (*LABELS, "c4", "c5", "c6", "c7", "c8", "c9", "j")
    npz.with_name("dataset.json").write_text(json.dumps({"labels": {**LABELS, "ignore": 4}}))
    assert label_map_of(npz) == LabelMap(HEART.class_names, HEART.codes, 4)


@pytest.mark.fault(46)
def test_46_a_config_that_contradicts_dataset_json_is_refused(tmp_path: Path) -> None:
    npz = write_nnunet(tmp_path / "pred", PROBS, LPS)
    same = LabelMap(("Background", "rv", "myo", "lv"), HEART.codes)
    assert labels_for(npz, same) == same
    for other in (
        LabelMap(("background", "LV", "MYO", "RV"), HEART.codes),
        LabelMap(HEART.class_names, ((0,), (1,), (2,), (4,))),
        LabelMap.consecutive(["background", "RV", "MYO"]),
    ):
        with pytest.raises(DataError, match="dataset.json") as caught:
            labels_for(npz, other)
        assert caught.value.reason == "class_order"


@pytest.mark.fault(46)
def test_46_regions_are_translated_into_the_classes_of_the_config_by_code(tmp_path: Path) -> None:
    npz = write_nnunet(tmp_path / "pred", TUMOR, LPS, order=[1, 2, 3])
    merged = LabelMap(("background", "edema", "core"), ((0,), (1,), (2, 3)))
    with pytest.raises(DataError, match="no union") as caught:
        channels_of(npz, merged)
    assert caught.value.reason == "class_order"
    named = LabelMap(("background", "ET", "ED", "NCR"), ((0,), (3,), (1,), (2,)))
    assert channels_of(npz, named).groups == ((1, 2, 3), (1, 3), (1,))
    assert channels_of(npz, named).painted == (2, 3, 1)


@pytest.mark.fault(46)
def test_46_a_wrong_number_of_channels_is_refused(tmp_path: Path, label: Path) -> None:
    npz = write_nnunet(tmp_path / "pred", PROBS, LPS)
    np.savez_compressed(npz, probabilities=np.moveaxis(PROBS, 0, -1))
    error = refusal(npz, label)
    assert (error.reason, "move it first" in str(error)) == ("channel_count", True)
