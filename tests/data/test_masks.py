"""A mask lands on the label's grid, whichever way it lies on disk, or is refused by name."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk  # noqa: N813 - its documented name
from helpers import LPS
from numpy.testing import assert_array_equal

from medcalib.data.masks import mask_file, read_mask
from medcalib.errors import DataError

Write = Callable[..., Path]
MOVED = LPS.copy()
MOVED[0, 3] += 2  # mm, more than a voxel
INSIDE = np.zeros((4, 5, 6), np.uint8)
INSIDE[1:3, 2:, :2] = [[[3, 1]]]


def test_anything_but_0_is_inside(volume: Write) -> None:
    for array in (INSIDE, INSIDE.astype(np.float32) * 0.5, -INSIDE.astype(np.int16)):
        found = read_mask(volume("a.nii.gz", array), LPS, (4, 5, 6))
        assert found.dtype == np.bool_
        assert_array_equal(found, INSIDE > 0)


@pytest.mark.fault(35)
def test_a_mask_stored_the_other_way_round_is_turned(volume: Write) -> None:
    flip = np.diag([-1.0, 1, 1, 1])
    flip[0, 3] = 3
    path = volume("a.nii.gz", INSIDE[::-1], LPS @ flip)
    assert_array_equal(read_mask(path, LPS, (4, 5, 6)), INSIDE > 0)
    path = volume("b.nii.gz", INSIDE.transpose(2, 0, 1), LPS[:, [2, 0, 1, 3]])
    assert_array_equal(read_mask(path, LPS, (4, 5, 6)), INSIDE > 0)


@pytest.mark.fault(28, 30, 33, 34)
@pytest.mark.parametrize(
    ("array", "affine", "reason"),
    [
        (INSIDE, MOVED, "affine_mismatch"),
        (INSIDE[:3], LPS, "shape_mismatch"),
        (np.stack([INSIDE] * 2, -1), LPS, "bad_shape"),
        (np.where(INSIDE, np.nan, 0).astype(np.float32), LPS, "mask_not_finite"),
    ],
)
def test_what_does_not_fit_is_refused(volume: Write, array: np.ndarray, affine: np.ndarray, reason: str) -> None:
    with pytest.raises(DataError) as caught:
        read_mask(volume("a.nii.gz", array, affine), LPS, (4, 5, 6))
    assert caught.value.reason == reason


def test_the_file_of_a_case_is_found_by_its_id(volume: Write, tmp_path: Path) -> None:
    volume("lesion/case_1.nii.gz", INSIDE)
    volume("lesion/case_10.nii", INSIDE)
    sitk.WriteImage(sitk.GetImageFromArray(INSIDE.transpose()), tmp_path / "lesion" / "case_2.mha")
    names = [mask_file(tmp_path / "lesion", case).name for case in ("case_1", "case_10", "case_2")]
    assert names == ["case_1.nii.gz", "case_10.nii", "case_2.mha"]
    with pytest.raises(DataError, match=r"holds no mask case_3\.nii\.gz") as caught:
        mask_file(tmp_path / "lesion", "case_3")
    assert caught.value.reason == "missing_mask"
