"""The confidence penalty."""

from __future__ import annotations

import math

import pytest
import torch
from cases import check_all_ignored, check_golden, check_gradient, check_ignored, random_batch, voxel

from medcalib import losses
from medcalib.losses.entropy import ClassReduction, negative_entropy

VALID = torch.ones(1, 1, 1, dtype=torch.bool)
ENTROPY = -0.25 * math.log(0.25) - 0.75 * math.log(0.75)


@pytest.mark.parametrize(("class_reduction", "expected"), [("sum", -ENTROPY), ("mean", -ENTROPY / 2)])
def test_a_voxel_by_hand(class_reduction: ClassReduction, expected: float) -> None:
    logits, labels = voxel(math.log(1), math.log(3), label=0)
    found = negative_entropy(logits, labels, VALID, class_reduction=class_reduction)
    assert found.item() == pytest.approx(expected, abs=1e-15)


def test_the_loss_is_cross_entropy_minus_weight_times_entropy() -> None:
    logits, labels = voxel(math.log(1), math.log(3), label=0)
    loss = losses.build("ecp", 2, weight=0.3, class_reduction="sum")(logits, labels).item()
    assert loss == pytest.approx(-math.log(0.25) - 0.3 * ENTROPY, abs=1e-15)


def test_equal_probabilities_have_the_largest_entropy() -> None:
    logits, labels = voxel(7.0, 7.0, 7.0, label=2)
    logits.requires_grad_()
    found = negative_entropy(logits, labels, VALID, class_reduction="sum")
    assert found.item() == pytest.approx(-math.log(3), abs=1e-15)
    assert torch.autograd.grad(found, logits)[0].abs().max() < 1e-15
    random, _ = random_batch()
    assert negative_entropy(random, labels, torch.ones(2, 3, 4, 3, dtype=torch.bool), class_reduction="sum") > found


def test_the_gradient_is_cut_next_to_certainty() -> None:
    """Probabilities beyond the clamp of the official code: exp(-22) is within it, exp(-24) is not."""
    for distance, cut in ((22.0, False), (24.0, True)):
        logits, labels = voxel(distance, 0.0, label=0)
        logits.requires_grad_()
        found = negative_entropy(logits, labels, VALID, class_reduction="sum")
        assert bool(torch.autograd.grad(found, logits)[0].any()) is not cut


@pytest.mark.parametrize("case", ["2d_c4", "2d_c2", "3d_c4", "2d_allbg", "2d_c4_ignore"])
def test_official_values(case: str) -> None:
    variants = {"default": {}, "alpha1": {"weight": 1.0}, "sdc_sum": {"class_reduction": "sum"}}
    check_golden(f"ecp__{case}.npz", "ecp", variants, loose=["sdc_sum"])


@pytest.mark.parametrize("class_reduction", ["mean", "sum"])
def test_gradient_and_ignored_voxels(class_reduction: str) -> None:
    check_gradient("ecp", weight=1.0, class_reduction=class_reduction)
    check_ignored("ecp", class_reduction=class_reduction)
    check_all_ignored("ecp", class_reduction=class_reduction)


def test_options_out_of_range_are_refused() -> None:
    with pytest.raises(ValueError, match="weight must be"):
        losses.build("ecp", 3, weight=-0.1)
    with pytest.raises(ValueError, match="^class_reduction must be"):
        losses.build("ecp", 3, class_reduction="max")
