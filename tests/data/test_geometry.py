"""Two grids are the same only where their affines prove it; equal shapes prove nothing."""

from __future__ import annotations

from itertools import permutations, product
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_allclose, assert_array_equal

from medcalib.data.geometry import (
    corner_distance_mm,
    is_sheared,
    is_singular,
    on_same_grid,
    orientation,
    reoriented,
    voxel_sizes,
)
from medcalib.data.nifti import read_volume
from medcalib.errors import DataError

SHAPE = (4, 5, 6)
PAIRS = ("RL", "AP", "SI")
CODES = ["".join(letters) for order in permutations(PAIRS) for letters in product(*order)]
ARRAY = np.arange(np.prod(SHAPE)).reshape(SHAPE)
LPS = np.array([[-2.0, 0, 0, 30], [0, -3.0, 0, 40], [0, 0, 5.0, -50], [0, 0, 0, 1]])


def affine_of(code: str, spacing_mm: tuple[float, float, float] = (2.0, 3.0, 5.0)) -> np.ndarray:
    """An affine whose array axes run along `code`; `spacing_mm` belongs to the world's x, y and z."""
    affine = np.eye(4)
    affine[:3, :3] = 0
    for axis, letter in enumerate(code):
        row = next(i for i, pair in enumerate(PAIRS) if letter in pair)
        affine[row, axis] = spacing_mm[row] * (1 if letter in "RAS" else -1)
    return affine


def refusal(array: np.ndarray, affine: np.ndarray, target: np.ndarray, shape: tuple[int, ...] = SHAPE) -> DataError:
    with pytest.raises(DataError) as caught:
        on_same_grid(array, affine, target, shape, "label.nii.gz")
    assert "label.nii.gz" in str(caught.value)
    return caught.value


def test_there_are_48_orientations() -> None:
    assert len(set(CODES)) == 48


@pytest.mark.fault(35)
@pytest.mark.parametrize("code", CODES)
def test_reorienting_keeps_every_voxel_at_its_place(code: str) -> None:
    affine = affine_of(code)
    moved, moved_affine = reoriented(ARRAY, affine, LPS)
    assert orientation(affine) == code
    assert orientation(moved_affine) == "LPS"
    assert sorted(voxel_sizes(moved_affine)) == sorted(voxel_sizes(affine))
    for index in ((0, 0, 0), (3, 0, 5), (1, 4, 2)):
        place = affine @ (*index, 1)
        there = np.linalg.solve(moved_affine, place)[:3].round().astype(int)
        assert moved[tuple(there)] == ARRAY[index]
    back, back_affine = reoriented(moved, moved_affine, affine)
    assert_array_equal(back, ARRAY)
    assert_allclose(back_affine, affine)


@pytest.mark.fault(35)
def test_an_las_label_is_flipped_onto_its_lps_image_because_the_affines_prove_it() -> None:
    las = LPS @ np.array([[1.0, 0, 0, 0], [0, -1, 0, SHAPE[1] - 1], [0, 0, 1, 0], [0, 0, 0, 1]])
    assert orientation(las) == "LAS"
    assert_array_equal(on_same_grid(ARRAY, las, LPS, SHAPE, "label"), ARRAY[:, ::-1])


@pytest.mark.fault(35)
def test_an_las_label_of_the_same_shape_is_refused_when_the_affines_contradict() -> None:
    las = LPS.copy()
    las[1, 1] = 3.0  # runs away from the image instead of along it
    error = refusal(ARRAY, las, LPS)
    assert error.reason == "affine_mismatch"
    assert "(LAS, voxels of 2 x 3 x 5 mm against LPS" in str(error)
    assert "12.00 mm" in str(error)  # it covers y = 40..52 mm where the image covers 28..40


@pytest.mark.fault(33)
def test_another_shape_is_refused_with_both_shapes() -> None:
    error = refusal(ARRAY[:-1], LPS, LPS)
    assert error.reason == "shape_mismatch"
    assert "(3, 5, 6)" in str(error)
    assert "(4, 5, 6)" in str(error)


@pytest.mark.fault(34)
@pytest.mark.parametrize(("shift_mm", "accepted"), [(0.19, True), (0.21, False)])
def test_a_tenth_of_the_smallest_voxel_edge_is_tolerated(shift_mm: float, accepted: bool) -> None:
    shifted = LPS.copy()
    shifted[2, 3] += shift_mm
    if accepted:
        assert_array_equal(on_same_grid(ARRAY, shifted, LPS, SHAPE, "label"), ARRAY)
    else:
        assert "0.21 mm" in str(refusal(ARRAY, shifted, LPS))


def test_corner_distance_counts_the_far_corner() -> None:
    longer = LPS.copy()
    longer[0, 0] = -2.1  # 0.1 mm a voxel, three steps from corner to corner
    assert corner_distance_mm(LPS, longer, SHAPE) == pytest.approx(0.3)


@given(angle=st.floats(-0.7, 0.7), axis=st.sampled_from([0, 1, 2]))
@settings(max_examples=30, deadline=None)
def test_a_rotation_is_no_shear(angle: float, axis: int) -> None:
    turned = np.eye(4)
    first, second = [k for k in range(3) if k != axis]
    turned[[first, first, second, second], [first, second, first, second]] = (
        np.cos(angle), -np.sin(angle), np.sin(angle), np.cos(angle),
    )  # fmt: skip
    assert not is_sheared(turned @ LPS)
    assert voxel_sizes(turned @ LPS) == pytest.approx((2, 3, 5))


def test_a_shear_is_one() -> None:
    sheared = LPS.copy()
    sheared[0, 1] = 0.3
    assert is_sheared(sheared)


@pytest.mark.fault(35)
@pytest.mark.parametrize("code", ["ARS", "ASL", "IPL", "LAS", "LPS", "PIR", "RAS", "SAR"])
def test_one_real_volume_in_eight_orders_is_one_volume(real: Path, code: str) -> None:
    ras = read_volume(real / "defects/orientation/RAS.nii.gz")
    other = read_volume(real / f"defects/orientation/{code}.nii.gz")
    assert orientation(other.affine) == code
    assert_array_equal(on_same_grid(other.array, other.affine, ras.affine, ras.array.shape, code), ras.array)


@pytest.mark.fault(32)
@pytest.mark.parametrize(
    ("axes", "singular"),
    [
        (np.eye(3), False),
        (np.diag([1e-3, 1e3, 1]), False),
        ([[1, 0.9, 0], [0, 0.1, 0], [0, 0, 1]], False),  # sheared to the tenth of a right angle
        (np.diag([1, 0, 1]), True),
        (np.diag([1, np.nan, 1]), True),
        (np.diag([1, np.inf, 1]), True),
        ([[1, 0, 0], [0, 1, 0], [1e34, 0, 1]], True),  # its determinant is 1, two of its axes are parallel
    ],
)
def test_axes_in_a_plane_are_singular_whatever_their_scale(axes: object, singular: bool) -> None:
    affine = np.eye(4)
    affine[:3, :3] = axes
    assert is_singular(affine) is singular
