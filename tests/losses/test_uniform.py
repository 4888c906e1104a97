"""The distance from equal probabilities."""

from __future__ import annotations

import math

import pytest
import torch
from cases import check_all_ignored, check_golden, check_gradient, check_ignored, voxel

from medcalib import losses
from medcalib.losses.uniform import uniform_distance

VALID = torch.ones(1, 1, 1, dtype=torch.bool)


def test_a_voxel_by_hand() -> None:
    """Probabilities 0.1, 0.2, 0.3, 0.4 lie 0.15, 0.05, 0.05, 0.15 from 1/4."""
    logits, labels = voxel(*map(math.log, (0.1, 0.2, 0.3, 0.4)), label=1)
    parts = losses.build("penalty_l1", 4, weight=2.0).parts(logits, labels)
    assert parts["uniform"].item() == pytest.approx(2 * 0.4, abs=1e-15)
    assert parts["cross_entropy"].item() == pytest.approx(-math.log(0.2), abs=1e-15)


@pytest.mark.parametrize(
    ("logits", "expected"), [((5.0, 5.0, 5.0), 0.0), ((900.0, 0.0, 0.0, 0.0), 1.5), ((900.0, 0.0), 1.0)]
)
def test_the_range_is_from_equal_to_certain(logits: tuple[float, ...], expected: float) -> None:
    found = uniform_distance(*voxel(*logits, label=1), VALID)
    assert found.item() == pytest.approx(expected, abs=1e-15)


def test_official_values() -> None:
    check_golden("penalty_l1__2d_c4.npz", "penalty_l1", {"default": {}})


def test_gradient_and_ignored_voxels() -> None:
    check_gradient("penalty_l1")
    check_ignored("penalty_l1")
    check_all_ignored("penalty_l1")


def test_options_out_of_range_are_refused() -> None:
    with pytest.raises(ValueError, match="weight must be"):
        losses.build("penalty_l1", 3, weight=-0.1)
