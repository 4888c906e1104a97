"""Codes become classes by what the config declares; nothing is guessed, nothing lost in silence."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_array_equal

from medcalib.data.labels import CONVENTIONS, IGNORE, LabelMap, convention_errors
from medcalib.data.nifti import read_volume
from medcalib.errors import DataError

BRATS = LabelMap(("background", "NCR", "ED", "ET"), ((0,), (1,), (2,), (4,)))


def refusal(label_map: LabelMap, values: object) -> DataError:
    with pytest.raises(DataError, match=r"^case 7: ") as caught:
        label_map.encode(np.asarray(values), "case 7")
    return caught.value


@pytest.mark.fault(29)
@pytest.mark.parametrize("dtype", [np.uint8, np.int8, np.int16, np.uint16, np.int64, np.float32, np.float64])
def test_codes_become_consecutive_classes_whatever_the_type(dtype: type) -> None:
    classes = BRATS.encode(np.array([[0, 1], [4, 2]], dtype), "x")
    assert classes.dtype == np.uint8
    assert classes.tolist() == [[0, 1], [3, 2]]


@given(
    codes=st.lists(st.integers(1, 65535), min_size=1, max_size=30, unique=True),
    ignored=st.sampled_from([None, -1, 0]),
    seed=st.integers(0, 9),
)
@settings(max_examples=60, deadline=None)
def test_decoding_undoes_encoding(codes: list[int], ignored: int | None, seed: int) -> None:
    every = [0, *codes] if ignored != 0 else codes
    label_map = LabelMap(tuple(map(str, every)), tuple((code,) for code in every), ignored)
    stored = np.random.default_rng(seed).choice([*every, *([] if ignored is None else [ignored])], (3, 4, 5))
    classes = label_map.encode(stored, "x")
    assert set(classes.ravel().tolist()) <= {*range(len(every)), IGNORE}
    decoded = label_map.decode(classes)
    assert_array_equal(decoded, stored)
    assert decoded.dtype == (np.uint8 if max(every) < 256 and ignored != -1 else np.int32)


def test_merged_codes_form_one_class_and_decode_to_the_first() -> None:
    kidneys = LabelMap(("background", "kidney"), ((0,), (2, 13)))
    assert kidneys.encode(np.array([0, 2, 13]), "x").tolist() == [0, 1, 1]
    assert kidneys.decode(np.array([0, 1])).tolist() == [0, 2]


@pytest.mark.fault(37)
def test_the_ignore_code_becomes_255() -> None:
    label_map = LabelMap(("background", "a"), ((0,), (1,)), ignore_code=-1)
    assert label_map.encode(np.array([-1, 0, 1]), "x").tolist() == [IGNORE, 0, 1]


@pytest.mark.fault(37)
def test_an_unknown_code_is_refused_with_its_voxels_and_what_is_declared() -> None:
    error = refusal(BRATS, [0, 3, 3, 9, 1])
    assert error.reason == "unknown_label"
    assert "3 (2 voxels), 9 (1 voxels)" in str(error)
    assert "background=0, NCR=1, ED=2, ET=4" in str(error)


def test_codes_of_2013_are_refused_under_the_convention_of_2017() -> None:
    """Code 3 is non-enhancing core in 2013 and does not exist later; it is never mapped to ET."""
    five = np.repeat(np.arange(5), [50, 4, 3, 2, 1])
    assert "3 (2 voxels)" in str(refusal(BRATS, five))


@pytest.mark.fault(29)
@pytest.mark.parametrize("values", [[0.0, 0.6], [0.5, 1.0], [1.002, 0.0]])
def test_values_between_codes_are_refused(values: list[float]) -> None:
    error = refusal(LabelMap.consecutive(["background", "a"]), values)
    assert error.reason == "label_not_integer"
    assert "interpolation" in str(error)


@pytest.mark.fault(30)
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_a_label_that_is_not_finite_is_refused(value: float) -> None:
    assert refusal(BRATS, [0.0, value]).reason == "label_not_finite"


@pytest.mark.fault(37)
@pytest.mark.parametrize("value", [-1, 5, 255, 2**31, -(2**40)])
def test_values_out_of_range_are_refused(value: int) -> None:
    assert f"{value} (1 voxels)" in str(refusal(BRATS, [0, value]))


@pytest.mark.fault(29)
def test_0_99999997_of_a_scaled_mask_reads_as_1() -> None:
    stored = np.array([0.0, 0.99999997, 1.0000002])
    assert stored.astype(np.uint8).tolist() == [0, 0, 1]  # what truncation makes of it
    assert LabelMap.consecutive(["background", "a"]).encode(stored, "x").tolist() == [0, 1, 1]


@pytest.mark.fault(29)
def test_the_real_scaled_mask_is_not_emptied(real: Path) -> None:
    volume = read_volume(real / "defects/scl_slope_mask/brainmask.nii.gz", dtype=None)
    classes = LabelMap.consecutive(["background", "brain"]).encode(volume.array, "brainmask")
    assert not volume.array.astype(np.uint8).any()
    assert classes.sum() == (volume.array > 0.5).sum() > 1000


def test_a_real_brats_label_reads_under_its_own_convention_only(real: Path) -> None:
    case = "brats2013/MICCAI_BraTS2020_TrainingData/BraTS20_Training_901/BraTS20_Training_901_seg.nii.gz"
    array = read_volume(real / case, dtype=None).array
    assert_array_equal(BRATS.decode(BRATS.encode(array, "901")), array)
    later = LabelMap(("background", *CONVENTIONS["brats2023"]), ((0,), (1,), (2,), (3,)))
    with pytest.raises(DataError, match=f"4 \\({(array == 4).sum():,} voxels\\)"):
        later.encode(array, "901")


@pytest.mark.parametrize(
    ("convention", "labels", "expected"),
    [
        ("brats2023", {"ET": (4,)}, "ET has code 4, but convention 'brats2023' says ET is 3"),
        ("brats2017-2021", {"ET": (3,)}, "ET has code 3, but convention 'brats2017-2021' says ET is 4"),
        ("msd_brats", {"NCR": (1,)}, "NCR has code 1, but convention 'msd_brats' says NCR is 2"),
        ("acdc", {"RV": (3,)}, "RV has code 3, but convention 'acdc' says RV is 1"),
        ("flare22", {"liver": (2, 3)}, "liver has code 2/3, but convention 'flare22' says liver is 1"),
        ("flare21", {"kidney": (2, 13)}, "kidney has code 13, which convention 'flare21' does not have"),
        ("brats2017-2021", {"NET": (3,)}, "NET has code 3, which convention 'brats2017-2021' does not have"),
    ],
)
def test_what_contradicts_a_convention_is_said(
    convention: str, labels: dict[str, tuple[int, ...]], expected: str
) -> None:
    assert convention_errors(convention, {"background": (0,)} | labels) == [(next(iter(labels)), expected)]


@pytest.mark.parametrize(
    ("convention", "labels"),
    [
        ("flare22", {"kidney": (2, 13)}),
        ("brats2013", {"NCR": (1, 3), "ED": (2,), "ET": (4,)}),
        ("brats2017-2021", {"core": (1, 4), "edema": (2,)}),
        *((name, {label: (code,) for label, code in codes.items()}) for name, codes in CONVENTIONS.items()),
    ],
)
def test_merging_and_renaming_contradict_nothing(convention: str, labels: dict[str, tuple[int, ...]]) -> None:
    assert convention_errors(convention, {"background": (0,)} | labels) == []
