"""A damaged, disguised or impossible file is refused with its reason; a good one is read exactly."""

from __future__ import annotations

import struct
from collections.abc import Callable
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from medcalib.data.geometry import NO_CODES, SHEARED, UNIT_AFFINE
from medcalib.data.nifti import read_volume, write_volume
from medcalib.errors import DataError

RNG = np.random.default_rng(0)


def reason_of(path: Path, **options: object) -> str:
    with pytest.raises(DataError) as caught:
        read_volume(path, **options)
    assert str(path) in str(caught.value)
    return caught.value.reason


@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.int32, np.uint16, np.float32, np.float64])
@pytest.mark.parametrize("name", ["a.nii", "a.nii.gz"])
def test_round_trip_is_exact(tmp_path: Path, dtype: type, name: str) -> None:
    array = (RNG.random((5, 6, 7)) * 100).astype(dtype)
    affine = np.array([[-2.0, 0, 0, 5], [0, 0, 3.0, -7], [0, 1.5, 0, 9], [0, 0, 0, 1]])
    write_volume(tmp_path / name, array, affine)
    found = read_volume(tmp_path / name, dtype=None)
    assert_array_equal(found.array, array)
    assert_allclose(found.affine, affine, atol=1e-6)
    assert found.spacing_mm == pytest.approx((2.0, 1.5, 3.0))


def test_agrees_with_nibabel_on_scaled_big_endian_and_4d(tmp_path: Path) -> None:
    header = nib.Nifti1Header(endianness=">")
    image = nib.Nifti1Image(RNG.integers(0, 500, (4, 5, 6, 2)).astype(">i2"), np.diag([1.0, 2, 3, 1]), header)
    image.header.set_slope_inter(0.5, -3)
    nib.save(image, tmp_path / "a.nii.gz")
    assert_array_equal(
        read_volume(tmp_path / "a.nii.gz").array, nib.load(tmp_path / "a.nii.gz").get_fdata(dtype=np.float32)
    )


@pytest.mark.fault(28)
def test_trailing_axes_of_one_are_dropped(volume: Callable[..., Path]) -> None:
    assert read_volume(volume("a.nii.gz", np.ones((3, 4, 5, 1)))).array.shape == (3, 4, 5)


def test_equal_volumes_give_equal_bytes_and_no_free_text(tmp_path: Path) -> None:
    array = RNG.random((5, 6, 7)).astype(np.float32)
    for name in ("a.nii.gz", "b.nii.gz"):
        write_volume(tmp_path / name, array, np.eye(4))
    assert (tmp_path / "a.nii.gz").read_bytes() == (tmp_path / "b.nii.gz").read_bytes()
    header = nib.load(tmp_path / "a.nii.gz").header
    assert not header["descrip"].item()
    assert not header["aux_file"].item()
    assert not len(header.extensions)
    assert (int(header["sform_code"]), int(header["qform_code"])) == (1, 1)


def patched(tmp_path: Path, offset: int, layout: str, *values: float) -> Path:
    """A NIfTI file of 3x4x5 zeros (int16) with some header bytes replaced."""
    write_volume(tmp_path / "a.nii", np.zeros((3, 4, 5), np.int16), np.diag([1.0, 1, 2, 1]))
    raw = bytearray((tmp_path / "a.nii").read_bytes())
    struct.pack_into(layout, raw, offset, *values)
    (tmp_path / "a.nii").write_bytes(raw)
    return tmp_path / "a.nii"


@pytest.mark.fault(26, 28, 29, 32)
@pytest.mark.parametrize(
    ("offset", "layout", "values", "reason"),
    [
        (40, "<4h", (3, 32767, 32767, 32767), "too_large"),
        (40, "<4h", (3, 3, 0, 5), "bad_shape"),
        (40, "<4h", (3, 3, -4, 5), "bad_shape"),
        (40, "<4h", (9, 3, 4, 5), "bad_shape"),
        (40, "<4h", (2, 3, 4, 5), "bad_shape"),
        (40, "<5h", (4, 1, 3, 4, 5), "bad_shape"),
        (40, "<4h", (3, 1, 12, 5), "bad_shape"),
        (40, "<4h", (3, 12, 1, 5), "bad_shape"),
        (40, "<4h", (3, 3, 4, 6), "truncated"),
        (70, "<h", (128,), "bad_dtype"),
        (70, "<h", (1792,), "bad_dtype"),
        (70, "<h", (32,), "bad_dtype"),
        (70, "<h", (2304,), "bad_dtype"),
        (108, "<f", (2.0**27,), "bad_header"),
        (280, "<4f", (float("nan"), 0, 0, 0), "bad_affine"),
        (280, "<4f", (0, 0, 0, 0), "bad_affine"),
        (280, "<4f", (float("inf"), 0, 0, 0), "bad_affine"),
        (76, "<4f", (1, 1, 1, 7), "spacing_disagrees"),
        (344, "<4s", (b"xyz\0",), "not_nifti"),
        (108, "<f", (float("nan"),), "bad_header"),
        (108, "<f", (float("inf"),), "bad_header"),
    ],
)
def test_an_impossible_header_is_refused(
    tmp_path: Path, offset: int, layout: str, values: tuple[float, ...], reason: str
) -> None:
    assert reason_of(patched(tmp_path, offset, layout, *values)) == reason


def test_unit_voxels_of_acdc_are_repaired_from_pixdim(tmp_path: Path) -> None:
    image = nib.Nifti1Image(np.zeros((3, 4, 5), np.int16), np.diag([-1.0, -1, 1, 1]))
    image.header["pixdim"][1:4] = (1.5, 1.5, 10)
    image.header["qform_code"], image.header["sform_code"] = 0, 2
    nib.save(image, tmp_path / "a.nii.gz")
    found = read_volume(tmp_path / "a.nii.gz")
    assert_allclose(found.affine[:3, :3], np.diag([-1.5, -1.5, 10]))
    assert found.warnings == (UNIT_AFFINE,)


@pytest.mark.fault(31, 32)
def test_no_orientation_codes_and_shear_are_warned_of(tmp_path: Path) -> None:
    nib.save(nib.Nifti1Image(np.zeros((3, 4, 5), np.int16), None), tmp_path / "a.nii.gz")
    assert NO_CODES in read_volume(tmp_path / "a.nii.gz").warnings
    sheared = np.eye(4)
    sheared[0, 1] = 0.2
    image = nib.Nifti1Image(np.zeros((3, 4, 5), np.int16), None)
    image.set_sform(sheared, 1)
    image.header["pixdim"][1:4] = np.linalg.norm(sheared[:3, :3], axis=0)
    nib.save(image, tmp_path / "b.nii.gz")
    assert read_volume(tmp_path / "b.nii.gz").warnings == (SHEARED,)


def test_real_files_read_as_nibabel_reads_them(real: Path) -> None:
    for name in ("defects/orientation/PIR.nii.gz", "brats2013/MICCAI_BraTS2020_TrainingData/BraTS20_Training_901/"
                 "BraTS20_Training_901_flair.nii.gz", "defects/scl_slope_mask/brainmask.nii.gz"):  # fmt: skip
        expected = nib.load(real / name)
        found = read_volume(real / name)
        assert_array_equal(found.array, expected.get_fdata(dtype=np.float32))
        assert_allclose(found.affine, expected.affine, atol=1e-4)


def test_every_real_acdc_file_has_its_true_spacing(real: Path) -> None:
    files = sorted((real / "acdc").rglob("*_gt.nii.gz"))
    assert len(files) == 24
    for file in files:
        found = read_volume(file, dtype=None)
        assert found.warnings == (UNIT_AFFINE,)
        assert found.spacing_mm == pytest.approx(tuple(map(float, nib.load(file).header.get_zooms())))
