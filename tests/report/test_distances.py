"""Sums by signed distance against a hand-made line of voxels."""

from __future__ import annotations

import numpy as np
import pytest

from medcalib.report.distances import signed_distance, sums_by_distance

MASK = np.array([0, 0, 1, 1, 1, 0], bool).reshape(6, 1, 1)


def test_distances_are_in_mm_between_centers_and_negative_inside() -> None:
    np.testing.assert_allclose(signed_distance(MASK, (2.0, 1.0, 1.0)).ravel(), [4, 2, -2, -4, -2, 2])
    assert (signed_distance(np.zeros((3, 3), bool), (1, 1)) == np.inf).all()
    assert (signed_distance(np.ones((3, 3), bool), (1, 1)) == -np.inf).all()


def test_sums_of_a_hand_made_line() -> None:
    confidence = np.array([0.9, 0.8, 0.7, 0.6, 0.5, 0.4]).reshape(6, 1, 1)
    wrong = np.array([0, 1, 0, 1, 0, 0], bool).reshape(6, 1, 1)
    valid = np.array([1, 1, 1, 1, 1, 0], bool).reshape(6, 1, 1)
    found = sums_by_distance(confidence, wrong, MASK, (2.0, 1.0, 1.0), valid=valid, edges_mm=(-5, -3, 0, 3))
    # -4: 0.6 wrong; -2: 0.7 and 0.5 right; 2: 0.8 wrong; 4 lies beyond the edges, the last voxel is not valid
    np.testing.assert_array_equal(found.voxels, [1, 2, 1])
    np.testing.assert_allclose(found.distance_mm, [-4, -4, 2])
    np.testing.assert_allclose(found.gap, [0.6, -0.8, 0.8])
    both = found + found
    np.testing.assert_allclose(both.gap, 2 * found.gap)
    with pytest.raises(ValueError, match="different bins"):
        found + sums_by_distance(confidence, wrong, MASK, (1, 1, 1), edges_mm=(0, 1))


def test_the_box_around_the_mask_changes_nothing() -> None:
    rng = np.random.default_rng(0)
    mask = np.zeros((30, 30, 12), bool)
    mask[12:16, 10:17, 4:7] = True
    confidence, wrong = rng.random(mask.shape), rng.random(mask.shape) < 0.3
    spacing, edges = (1.5, 1.5, 6.0), (-4.0, 0.0, 2.0, 5.0)
    found = sums_by_distance(confidence, wrong, mask, spacing, edges_mm=edges)
    distance = signed_distance(mask, spacing)
    for k in range(3):
        there = (distance > edges[k]) & (distance <= edges[k + 1])
        assert found.voxels[k] == there.sum()
        assert found.gap[k] == pytest.approx((confidence[there] - ~wrong[there]).sum())


def test_no_mask_is_no_voxel() -> None:
    empty = np.zeros((4, 4, 4), bool)
    assert sums_by_distance(np.ones(empty.shape), empty, empty, (1, 1, 1)).voxels.sum() == 0
