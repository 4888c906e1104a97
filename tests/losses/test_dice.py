"""Dice loss, alone and with cross-entropy."""

from __future__ import annotations

import pytest
import torch
from cases import check_all_ignored, check_golden, check_gradient, check_ignored

from medcalib import losses


def test_two_voxels_by_hand() -> None:
    """p = (.75, .25) and (.25, .75), labels 0 and 1: both classes have Dice 2 * .75 / (1 + 1)."""
    high, low = torch.log(torch.tensor(3.0, dtype=torch.float64)), torch.zeros((), dtype=torch.float64)
    logits = torch.stack([torch.stack([high, low]), torch.stack([low, high])]).T.reshape(1, 2, 1, 2)
    labels = torch.tensor([0, 1]).reshape(1, 1, 2)
    loss = losses.build("dice", 2, smooth_nr=0.0, smooth_dr=1e-12)(logits, labels).item()
    assert loss == pytest.approx(0.25, abs=1e-9)
    squared = losses.build("dice", 2, smooth_nr=0.0, smooth_dr=1e-12, squared=True)(logits, labels).item()
    assert squared == pytest.approx(1 - 1.5 / (0.75**2 + 0.25**2 + 1), abs=1e-9)


def test_a_perfect_prediction_costs_nothing_and_an_absent_class_nearly_one() -> None:
    labels = torch.tensor([0, 1]).reshape(1, 1, 2)
    logits = torch.nn.functional.one_hot(labels, 2).movedim(-1, 1).double() * 100
    assert losses.build("dice", 2)(logits, labels).item() == pytest.approx(0, abs=1e-5)
    three = torch.cat([logits, torch.zeros(1, 1, 1, 2, dtype=torch.float64)], 1)
    assert losses.build("dice", 3)(three, labels).item() == pytest.approx(0, abs=1e-5)
    unsure = losses.build("dice", 3)(torch.zeros(1, 3, 1, 2), labels).item()
    assert unsure > 0.5


@pytest.mark.parametrize("case", ["2d_c4", "2d_c2", "3d_c4", "2d_allbg"])
def test_official_values(case: str) -> None:
    variants = {
        "default": {},
        "nobg": {"include_background": False},
        "acl_baseline": {"squared": True, "smooth_nr": 0.0},
    }
    check_golden(f"dice_ce__{case}.npz", "dice_ce", variants, loose=["acl_baseline"])


@pytest.mark.parametrize("name", ["dice", "dice_ce"])
def test_gradient_and_ignored_voxels(name: str) -> None:
    check_gradient(name)
    check_ignored(name)
    check_all_ignored(name)


def test_smoothing_constants_out_of_range_are_refused() -> None:
    with pytest.raises(ValueError, match="smooth_dr"):
        losses.build("dice", 3, smooth_dr=0.0)
