"""What is written is read: any shape, type, grid and scaling, by this reader and by nibabel."""

from __future__ import annotations

import gzip
import tempfile
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from numpy.testing import assert_allclose, assert_array_equal
from scipy.spatial.transform import Rotation

from medcalib.data.geometry import SHEARED
from medcalib.data.nifti import read_volume, volume_writer, write_volume

TYPES = [np.uint8, np.int8, np.int16, np.uint16, np.int32, np.uint32, np.float32, np.float64]
SHAPES = st.one_of(
    st.tuples(*[st.integers(2, 7)] * 3),
    st.tuples(*[st.integers(2, 5)] * 4),
    st.tuples(st.integers(2, 7), st.integers(2, 7), st.just(1)),
)
EXAMPLES = {"max_examples": 50, "deadline": None}


@st.composite
def affines(draw: st.DrawFn) -> np.ndarray:
    """A rotation (with a flip or without), voxels of 0.1 to 20 mm, an origin within two meters."""
    angles = [draw(st.floats(-180, 180)) for _ in range(3)]
    sizes = np.array([draw(st.floats(0.1, 20)) for _ in range(3)]) * [draw(st.sampled_from([-1, 1])), 1, 1]
    affine = np.eye(4)
    affine[:3, :3] = Rotation.from_euler("xyz", angles, degrees=True).as_matrix() * sizes
    affine[:3, 3] = [draw(st.floats(-2000, 2000)) for _ in range(3)]
    return affine


@st.composite
def volumes(draw: st.DrawFn) -> np.ndarray:
    dtype = np.dtype(draw(st.sampled_from(TYPES)))
    finite = {"allow_nan": False, "allow_infinity": False, "width": dtype.itemsize * 8}
    elements = st.floats(**finite) if dtype.kind == "f" else None
    return draw(arrays.arrays(dtype, draw(SHAPES), elements=elements))


@given(volumes(), affines(), st.sampled_from([".nii", ".nii.gz"]))
@settings(**EXAMPLES)
def test_what_is_written_is_read_to_the_last_bit(array: np.ndarray, affine: np.ndarray, suffix: str) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, f"a{suffix}")
        write_volume(path, array, affine)
        found = read_volume(path, dtype=None)
        with volume_writer(Path(folder, f"b{suffix}"), array.shape, array.dtype, affine) as append:
            for k in range(array.shape[-1]):
                append(array[..., k : k + 1])
        assert path.read_bytes() == Path(folder, f"b{suffix}").read_bytes()
        nibabel = nib.load(path)
        assert nibabel.header.get_data_dtype() == array.dtype
        assert_allclose(nibabel.affine, found.affine)
    assert found.array.dtype == array.dtype
    assert_array_equal(found.array, array)
    assert_allclose(found.affine, affine, rtol=1e-6, atol=1e-4 * np.abs(affine).max())
    assert found.warnings == ()
    assert_allclose(found.spacing_mm, np.linalg.norm(affine[:3, :3], axis=0), rtol=1e-5)


@given(
    stored=arrays.arrays(np.int16, (3, 4, 5)),
    slope=st.floats(-100, 100, width=32).filter(lambda x: x == 0 or abs(x) > 1e-4),
    intercept=st.floats(-1000, 1000, width=32),
    endian=st.sampled_from("<>"),
)
@settings(**EXAMPLES)
def test_scaling_and_byte_order_are_those_of_nibabel(
    stored: np.ndarray, slope: float, intercept: float, endian: str
) -> None:
    """A slope of 0 means that nothing is scaled."""
    image = nib.Nifti1Image(stored.astype(f"{endian}i2"), np.eye(4), nib.Nifti1Header(endianness=endian))
    image.header.set_data_dtype(np.int16)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "a.nii.gz")
        image.to_filename(path)
        _write_scaling(path, slope, intercept, endian)
        found, expected = read_volume(path, dtype=None).array, np.asarray(nib.load(path).dataobj)
    assert_array_equal(found, expected)
    assert_array_equal(found, stored if slope == 0 else stored * np.float64(slope) + np.float64(intercept))


def _write_scaling(path: Path, slope: float, intercept: float, endian: str) -> None:
    raw = bytearray(gzip.decompress(path.read_bytes()))
    raw[112:120] = np.array([slope, intercept], f"{endian}f4").tobytes()
    path.write_bytes(gzip.compress(bytes(raw)))


@pytest.mark.fault(31)
@given(affines(), st.floats(-0.5, 0.5))
@settings(max_examples=30, deadline=None)
def test_a_shear_is_kept_and_told(affine: np.ndarray, amount: float) -> None:
    shear = np.eye(4)
    shear[0, 1] = amount
    sheared = affine @ shear
    image = nib.Nifti1Image(np.zeros((3, 4, 5), np.uint8), None)
    image.set_sform(sheared, 1)
    image.header["pixdim"][1:4] = np.linalg.norm(sheared[:3, :3], axis=0)
    with tempfile.TemporaryDirectory() as folder:
        image.to_filename(Path(folder, "a.nii"))
        found = read_volume(Path(folder, "a.nii"))
    assert_allclose(found.affine, sheared, rtol=1e-5, atol=1e-4 * np.abs(sheared).max())
    cosine = abs(sheared[:3, 0] @ sheared[:3, 1]) / np.prod(np.linalg.norm(sheared[:3, :2], axis=0))
    assert (SHEARED in found.warnings) == (cosine > 1e-3)
