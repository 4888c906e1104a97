"""HD95 in mm by hand: spacing of each axis, the 95th percentile, empty masks."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from helpers import smooth_case

from medcalib.metrics import score_case
from medcalib.metrics.surface import box_around, hd95_mm, surface_dice

SPACING = (1.5, 2.0, 10.0)


def box(*slices: tuple[int, int], shape: tuple[int, int, int] = (20, 20, 20)) -> np.ndarray:
    mask = np.zeros(shape, bool)
    mask[tuple(slice(*s) for s in slices)] = True
    return mask


CUBE = box((5, 10), (5, 10), (5, 10))


@pytest.mark.parametrize(("axis", "steps"), [(0, 1), (0, 3), (1, 2), (2, 1)])
def test_a_plate_moved_by_whole_voxels_is_that_many_mm_away(axis: int, steps: int) -> None:
    """Every voxel of a plate one voxel thick is a surface voxel, and its nearest one lies straight across."""
    plate = np.zeros((20, 20, 20), bool)
    plate[(slice(None),) * axis + (5,)] = True
    moved = np.roll(plate, steps, axis)
    assert hd95_mm(plate, moved, SPACING) == pytest.approx(steps * SPACING[axis])


def test_single_voxels_are_their_distance_apart() -> None:
    a, b = box((3, 4), (3, 4), (3, 4)), box((5, 6), (4, 5), (4, 5))
    assert hd95_mm(a, b, SPACING) == pytest.approx(math.sqrt(3.0**2 + 2.0**2 + 10.0**2))


def test_two_boxes_by_hand_in_anisotropic_voxels() -> None:
    """A column of 20 voxels against its first 10: distances 0 x 10 and 1..10 steps; the larger side's 95th
    percentile lies between the 19th and the 20th of 20 values, at 9 + 0.05 steps."""
    long, short = box((3, 4), (3, 4), (0, 20)), box((3, 4), (3, 4), (0, 10))
    expected = np.percentile([0] * 10 + list(range(1, 11)), 95) * SPACING[2]
    assert expected == pytest.approx(90.5)
    assert hd95_mm(long, short, SPACING) == pytest.approx(expected)
    assert hd95_mm(short, long, SPACING) == pytest.approx(expected)


def test_equal_masks_are_at_distance_0_even_at_the_border() -> None:
    assert hd95_mm(CUBE, CUBE, SPACING) == 0
    everything = np.ones((4, 5, 6), bool)
    assert hd95_mm(everything, everything, SPACING) == 0


def test_a_few_voxels_far_away_do_not_count() -> None:
    speckled = CUBE.copy()
    speckled[19, 19, 19] = True
    assert hd95_mm(speckled, CUBE, SPACING) == 0


def test_twice_the_spacing_is_twice_the_distance_and_sides_do_not_matter() -> None:
    other = box((6, 12), (4, 9), (7, 11))
    value = hd95_mm(CUBE, other, SPACING)
    assert hd95_mm(other, CUBE, SPACING) == value > 0
    assert hd95_mm(CUBE, other, [2 * s for s in SPACING]) == pytest.approx(2 * value)


def test_where_the_masks_lie_does_not_matter() -> None:
    other = box((6, 12), (4, 9), (7, 11))
    shifted = [np.roll(mask, (-4, 8, 9), (0, 1, 2)) for mask in (CUBE, other)]
    assert hd95_mm(*shifted, SPACING) == pytest.approx(hd95_mm(CUBE, other, SPACING))


def test_there_is_no_distance_to_nothing() -> None:
    empty = np.zeros_like(CUBE)
    for pair in ((CUBE, empty), (empty, CUBE), (empty, empty)):
        assert math.isnan(hd95_mm(*pair, SPACING))


@pytest.mark.parametrize(("axis", "steps"), [(0, 1), (1, 1), (2, 1)])
def test_surface_dice_of_a_moved_plate_turns_at_the_distance_in_mm(axis: int, steps: int) -> None:
    plate = np.zeros((20, 20, 20), bool)
    plate[(slice(None),) * axis + (5,)] = True
    moved = np.roll(plate, steps, axis)
    distance = steps * SPACING[axis]
    assert surface_dice(plate, moved, SPACING, distance + 0.01) == 1
    assert surface_dice(plate, moved, SPACING, distance - 0.01) == 0


def test_surface_dice_of_a_column_and_its_half_by_hand() -> None:
    """20 voxels against their first 10, 10 mm each, tolerance 25 mm: of the long one 10 + 2 are near, of the short
    one all 10."""
    long, short = box((3, 4), (3, 4), (0, 20)), box((3, 4), (3, 4), (0, 10))
    assert surface_dice(long, short, SPACING, 25.0) == pytest.approx((12 + 10) / 30)
    assert surface_dice(short, long, SPACING, 25.0) == pytest.approx((12 + 10) / 30)


def test_surface_dice_agrees_with_brute_force() -> None:
    other = box((6, 12), (4, 9), (7, 11))
    points = []
    for mask in (CUBE, other):
        inner = mask.copy()
        for axis in range(3):
            inner &= np.roll(mask, 1, axis) & np.roll(mask, -1, axis)
        points.append(np.argwhere(mask & ~inner) * np.array(SPACING))
    distance = np.sqrt(((points[0][:, None] - points[1][None]) ** 2).sum(-1))
    for tolerance in (0.0, 2.1, 5.1, 11.0):
        near = (distance.min(1) <= tolerance).sum() + (distance.min(0) <= tolerance).sum()
        expected = near / (len(points[0]) + len(points[1]))
        assert surface_dice(CUBE, other, SPACING, tolerance) == pytest.approx(expected, abs=1e-7)


def test_surface_dice_is_absent_where_dice_is_and_0_where_one_mask_is_empty() -> None:
    empty = np.zeros_like(CUBE)
    assert math.isnan(surface_dice(empty, empty, SPACING))
    assert surface_dice(CUBE, empty, SPACING) == surface_dice(empty, CUBE, SPACING) == 0
    assert surface_dice(CUBE, CUBE, SPACING, 0.0) == 1


def test_the_box_holds_every_box_and_a_voxel_around() -> None:
    boxes = [(slice(2, 4), slice(0, 3)), None, (slice(5, 6), slice(1, 7))]
    assert box_around(boxes, (9, 7)) == (slice(1, 7), slice(0, 8))
    assert box_around([None], (9, 7)) == (slice(0, 0), slice(0, 0))


@pytest.mark.parametrize("ignore_index", [None, 255])
def test_structures_in_their_boxes_are_those_of_the_whole_volume(ignore_index: int | None) -> None:
    """Classes and a composite, one absent, one at the edge of the volume, and ignored voxels."""
    probs, labels = smooth_case(3, 5, (12, 10, 9))
    probs = probs * torch.tensor([1.0, 1, 1, 1, 0]).reshape(5, 1, 1, 1)
    probs, labels = probs / probs.sum(0), labels.where(labels != 4, 0)
    if ignore_index is not None:
        labels[:3] = ignore_index
    spacing = (1.0, 2.0, 3.0)
    case = score_case(
        probs, labels, case_id="a", class_names="abcde", spacing_mm=spacing, composites={"bc": (1, 2), "ab": (0, 1)},
        ignore_index=ignore_index,
    )  # fmt: skip
    drawn, valid = probs.argmax(0), labels != 255
    for k, members in enumerate([(1,), (2,), (3,), (4,), (1, 2), (0, 1)], start=1):
        wanted = torch.tensor(members)
        masks = [(torch.isin(volume, wanted) & valid).numpy() for volume in (drawn, labels)]
        found = (case.hd95_mm[k], case.surface_dice[k])
        assert found == pytest.approx((hd95_mm(*masks, spacing), surface_dice(*masks, spacing)), nan_ok=True)
