"""What the values of a prediction may be: refused by name, warned about with a share, never repaired in silence."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from foreign import pair_of
from helpers import smooth_case
from numpy.testing import assert_allclose, assert_array_equal

from medcalib.data.case import Case
from medcalib.data.labels import LabelMap
from medcalib.data.nifti import write_volume
from medcalib.data.predictions import Compared, read_pair, write_prediction
from medcalib.errors import DataError

AFFINE = np.diag([2.0, 2.0, 5.0, 1.0])
CLASSES = LabelMap.consecutive(["background", "a", "b", "c"])
PROBS, TRUE = (t.numpy() for t in smooth_case(5, shape=(10, 11, 12)))
COUNT = TRUE.size
Write = Callable[..., Path]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_volume(tmp_path / "label.nii.gz", TRUE, AFFINE)
    return tmp_path


def written(folder: Path, values: np.ndarray, **sidecar: object) -> Path:
    path = folder / "pred/c1.nii"
    write_volume(path, np.moveaxis(values, 0, -1), AFFINE)
    if sidecar:
        path.with_name("c1.json").write_text(json.dumps(sidecar))
    return path


def read(folder: Path, values: np.ndarray, *, logits: bool = False, **sidecar: object) -> Compared:
    path = written(folder, values, **sidecar)
    return read_pair(pair_of(path, folder / "label.nii.gz"), CLASSES, assume_logits=logits)


def refusal(folder: Path, values: np.ndarray, *, logits: bool = False, **sidecar: object) -> tuple[str, str]:
    with pytest.raises(DataError) as caught:
        read(folder, values, logits=logits, **sidecar)
    assert "c1.nii" in str(caught.value)
    return caught.value.reason, str(caught.value)


def changed(change: Callable[[np.ndarray], object]) -> np.ndarray:
    values = PROBS.copy()
    change(values)
    return values


def put(value: float, channel: int | slice = 1, at: tuple[int, ...] = (3, 4, 5)) -> np.ndarray:
    return changed(lambda values: values.__setitem__((channel, *at), value))


@pytest.mark.fault(40)
def test_40_sums_off_by_more_than_a_thousandth_are_refused_with_their_share(folder: Path) -> None:
    reason, text = refusal(folder, put(float(PROBS[1, 3, 4, 5]) + 2e-3))
    assert reason == "sums_off"
    assert f"1 voxel ({100 / COUNT:.3g} %)" in text
    assert "worst sum 1.002" in text
    assert read(folder, put(float(PROBS[1, 3, 4, 5]) + 5e-4)).warnings == ()


@pytest.mark.fault(41)
@pytest.mark.parametrize("value", [-0.1, 1.2])
def test_41_a_value_beyond_0_to_1_is_refused(folder: Path, value: float) -> None:
    reason, text = refusal(folder, put(value))
    assert (reason, f"{value:g}" in text) == ("out_of_range", True)


@pytest.mark.fault(41)
def test_41_rounding_beyond_0_to_1_is_cut(folder: Path) -> None:
    values = changed(lambda v: v.__setitem__((slice(None), 0, 0, 0), [1 + 5e-7, -5e-7, 0, 0]))
    with read(folder, values) as found:
        assert_array_equal(found.probs[:, 0, 0, 0], [1, 0, 0, 0])
        assert found.probs.min() >= 0


@pytest.mark.fault(42)
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_42_nan_and_infinity_are_refused_with_their_count(folder: Path, value: float) -> None:
    values = put(value)
    values[0, 3, 4, 6] = value
    for logits in (False, True):
        reason, text = refusal(folder, values, logits=logits)
        assert (reason, "2 voxels" in text) == ("not_finite", True)


@pytest.mark.fault(42)
def test_42_values_that_float32_cannot_hold_are_refused(folder: Path) -> None:
    values = PROBS.astype(np.float64)
    values[1, 3, 4, 5] = 1e300
    assert refusal(folder, values, logits=True)[0] == "not_finite"


@pytest.mark.fault(43)
def test_43_voxels_with_probability_0_for_every_class_are_refused(folder: Path) -> None:
    reason, text = refusal(folder, changed(lambda v: v.__setitem__((slice(None), slice(0, 2)), 0)))
    assert reason == "zero_probabilities"
    assert "264 voxels (20 %)" in text
    assert "crop" in text


@pytest.mark.fault(44)
def test_44_a_uniform_slab_is_warned_about_with_its_share(folder: Path) -> None:
    found = read(folder, changed(lambda v: v.__setitem__((slice(None), slice(0, 2)), 0.25)))
    (text,) = found.warnings
    assert text.startswith("uniform_probabilities: 264 voxels (20 %) have probability 1/4")
    assert read(folder, changed(lambda v: v.__setitem__((slice(None), 0, 0, 0), 0.25))).warnings == ()


@pytest.mark.fault(45)
def test_45_logits_passed_as_probabilities_are_refused_with_the_option(folder: Path) -> None:
    reason, text = refusal(folder, np.log(PROBS) + 3)
    assert (reason, "--logits" in text) == ("looks_like_logits", True)


@pytest.mark.fault(45)
def test_45_probabilities_passed_as_logits_are_refused(folder: Path) -> None:
    reason, text = refusal(folder, PROBS, logits=True)
    assert (reason, "--logits" in text) == ("looks_like_probabilities", True)
    assert refusal(folder, PROBS, activation="logits")[0] == "looks_like_probabilities"


@pytest.mark.fault(45)
def test_45_declared_logits_are_given_as_they_are_and_as_probabilities(folder: Path) -> None:
    logits = (np.log(PROBS) + 3).astype(np.float32)
    for found in (read(folder, logits, logits=True), read(folder, logits, activation="logits")):
        assert found.activation == "logits"
        assert_array_equal(next(found.slabs(COUNT))[1], logits)
        assert_allclose(found.probs, torch.from_numpy(logits).softmax(0).numpy(), atol=1e-6)
        assert_allclose(found.probs, PROBS, atol=1e-6)


@pytest.mark.fault(45)
def test_45_an_option_may_not_contradict_the_sidecar(folder: Path) -> None:
    values = written(folder, PROBS, activation="softmax")
    with pytest.raises(DataError, match="softmax") as caught:
        read_pair(pair_of(values, folder / "label.nii.gz"), CLASSES, assume_logits=True)
    assert caught.value.reason == "activation_conflict"


@pytest.mark.fault(41, 52)
def test_percentages_are_refused_with_the_scale_to_declare(folder: Path) -> None:
    reason, text = refusal(folder, PROBS * 100)
    assert (reason, '"scale": 100' in text) == ("out_of_range", True)
    assert_allclose(read(folder, PROBS * 100, scale=100).probs, PROBS, atol=1e-7)


@pytest.mark.fault(52)
def test_52_half_precision_is_accepted_and_warned_about(folder: Path) -> None:
    np.save(folder / "c1.npy", PROBS.astype(np.float16))
    (folder / "c1.json").write_text('{"axes": "ijk"}')
    found = read_pair(pair_of(folder / "c1.npy", folder / "label.nii.gz"), CLASSES)
    assert_array_equal(found.probs, PROBS.astype(np.float16).astype(np.float32))
    assert [text.split(":")[0] for text in found.warnings] == ["float16_probabilities"]


@pytest.mark.fault(52)
def test_52_bytes_need_a_declared_scale(folder: Path) -> None:
    stored = np.rint(PROBS * 255).astype(np.uint8)
    reason, text = refusal(folder, stored)
    assert (reason, '"scale": 255' in text) == ("unscaled_probabilities", True)
    found = read(folder, stored, scale=255)
    assert_allclose(found.probs, PROBS, atol=4 / 255)
    assert_allclose(found.probs.sum(0), 1, atol=1e-6)
    assert [text.split(":")[0] for text in found.warnings] == ["quantized_probabilities"]


@pytest.mark.fault(40)
def test_40_rounding_to_bytes_does_not_excuse_sums_that_are_wrong(folder: Path) -> None:
    stored = np.rint(PROBS * 255 * 0.9).astype(np.uint8)
    assert refusal(folder, stored, scale=255)[0] == "sums_off"


@pytest.mark.fault(53)
@pytest.mark.parametrize("dtype", [np.uint8, np.float32])
def test_53_labels_given_as_probabilities_are_warned_about(folder: Path, dtype: type) -> None:
    found = read(folder, np.eye(4, dtype=dtype)[:, TRUE])
    assert [text.split(":")[0] for text in found.warnings] == ["hard_labels"]
    assert found.outside is None


@pytest.mark.fault(53)
def test_53_labels_of_two_classes_at_once_are_refused(folder: Path) -> None:
    stored = np.eye(4, dtype=np.uint8)[:, TRUE]
    stored[:, 1, 2, 3] = 1, 0, 1, 0
    assert refusal(folder, stored)[0] == "sums_off"


def test_certain_background_is_a_crop_only_where_no_sidecar_tells_who_wrote_it(folder: Path) -> None:
    values = changed(lambda v: v.__setitem__((slice(None), slice(0, 3)), np.array([1, 0, 0, 0])[:, None, None, None]))
    found = read(folder, values)
    assert found.outside is not None
    assert_array_equal(found.outside, np.arange(10)[:, None, None] < np.full((10, 11, 12), 3))
    assert found.warnings[0].startswith("filled_background: 396 voxels (30 %)")
    own = {"class_names": CLASSES.class_names, "codes": CLASSES.codes, "activation": "softmax"}
    assert read(folder, values, **own).outside is None


@pytest.mark.fault(49)
def test_independent_channels_need_to_be_declared(folder: Path) -> None:
    regions = np.stack([PROBS[1:].sum(0), PROBS[2:].sum(0), PROBS[3], PROBS[1]])
    reason, text = refusal(folder, regions)
    assert (reason, "sigmoid" in text) == ("sums_off", True)
    assert refusal(folder, regions, activation="sigmoid")[0] == "missing_groups"
    groups = {"all": [1, 2, 3], "bc": [2, 3], "c": [3], "a": [1]}
    found = read(folder, regions, activation="sigmoid", groups=groups)
    assert (found.activation, found.groups) == ("sigmoid", ((1, 2, 3), (2, 3), (3,), (1,)))
    assert found.channel_names == tuple(groups)
    assert refusal(folder, regions + 1, activation="sigmoid", groups=groups)[0] == "looks_like_logits"


def test_a_single_independent_channel_may_be_a_3d_volume(folder: Path) -> None:
    lesion = PROBS[1:].sum(0)
    found = read(folder, lesion[None], activation="sigmoid", groups={"lesion": [1, 2, 3]})
    assert found.groups == ((1, 2, 3),)
    assert_array_equal(next(found.slabs(COUNT))[1], lesion[None])


@pytest.mark.parametrize(
    "sidecar",
    [
        {"activation": "relu"},
        {"scale": 0},
        {"scale": "x"},
        {"axes": "xyz"},
        {"groups": {"a": [1]}},
        {"activation": "sigmoid", "groups": {"a": [7]}},
        {"activation": "sigmoid", "groups": [[1]]},
    ],
)
def test_an_option_of_a_sidecar_that_means_nothing_is_refused(folder: Path, sidecar: dict[str, object]) -> None:
    path = written(folder, PROBS, **sidecar)
    with pytest.raises(DataError, match="c1.json") as caught:
        read_pair(pair_of(path, folder / "label.nii.gz"), CLASSES)
    assert caught.value.reason == "bad_sidecar"


@pytest.mark.parametrize("compressed", [False, True])
def test_slabs_are_the_volume_in_pieces_of_bounded_size(folder: Path, compressed: bool) -> None:
    case = Case("c1", "c1", (), folder / "label.nii.gz")
    write_prediction(folder / "pred", case, PROBS, AFFINE, CLASSES, {})
    path = folder / "pred/c1.nii.gz" if compressed else written(folder, PROBS)
    with read_pair(pair_of(path, folder / "label.nii.gz"), CLASSES) as found:
        parts = list(found.slabs(250))
        assert [part.shape for _, part in parts] == [(4, 10, 11, 2)] * 6
        for where, part in parts:
            assert_array_equal(part, PROBS[..., where])
            assert part.dtype == np.float32
        assert [part.shape[-1] for _, part in found.slabs(1)] == [1] * 12
    with pytest.raises(ValueError, match="closed"):
        next(found.slabs())
    assert_array_equal(parts[0][1], PROBS[..., :2])  # what was given out stays valid


def test_repaired_headers_are_among_the_warnings(folder: Path, volume: Write) -> None:
    sheared = AFFINE.copy()
    sheared[0, 1] = 0.4
    volume("label.nii.gz", TRUE, sheared)
    path = folder / "c1.nii"
    write_volume(path, np.moveaxis(PROBS, 0, -1), sheared)
    found = read_pair(pair_of(path, folder / "label.nii.gz"), CLASSES)
    assert [text.split(":")[0] for text in found.warnings] == ["sheared_affine"]
