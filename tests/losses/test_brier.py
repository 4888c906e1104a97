"""The Brier score, and the focal calibration losses that hold it."""

from __future__ import annotations

import math

import pytest
import torch
from cases import check_all_ignored, check_golden, check_gradient, check_ignored, random_batch, voxel

from medcalib import losses
from medcalib.losses.brier import adaptive_brier_score, brier_score

VALID = torch.ones(1, 1, 1, dtype=torch.bool)


@pytest.mark.parametrize(("class_reduction", "expected"), [("sum", 0.14), ("mean", 0.14 / 3)])
def test_a_voxel_by_hand(class_reduction: str, expected: float) -> None:
    """Errors 0.1, 0.2 and -0.3."""
    logits, labels = voxel(math.log(0.1), math.log(0.2), math.log(0.7), label=2)
    loss = losses.build("brier", 3, class_reduction=class_reduction)(logits, labels).item()
    assert loss == pytest.approx(expected, abs=1e-15)


def test_an_adaptive_voxel_by_hand() -> None:
    logits, labels = voxel(math.log(0.1), math.log(0.2), math.log(0.7), label=2)
    for class_reduction, expected in (("sum", 0.3**3 * 0.14), ("mean", 0.3**3 * 0.14 / 3)):
        parts = losses.build("sa_fcl", 3, gamma_calibration=3.0, class_reduction=class_reduction).parts(logits, labels)
        assert parts["adaptive_brier"].item() == pytest.approx(expected, abs=1e-15)


def test_the_adaptive_factor_has_no_gradient() -> None:
    """So the gradient of a voxel is that of its Brier score times (1 - p_t)^2."""
    logits, labels = voxel(math.log(0.1), math.log(0.2), math.log(0.7), label=2)
    logits.requires_grad_()
    adaptive = adaptive_brier_score(logits, labels, VALID, gamma_calibration=2.0, class_reduction="sum")
    plain = brier_score(logits, labels, VALID, class_reduction="sum")
    (found,), (expected,) = torch.autograd.grad(adaptive, logits), torch.autograd.grad(plain, logits)
    torch.testing.assert_close(found, 0.09 * expected)


def test_the_range_is_zero_to_two() -> None:
    for label, expected in ((0, 0.0), (1, 2.0)):
        logits, labels = voxel(800.0, 0.0, 0.0, label=label)
        assert losses.build("brier", 3)(logits, labels).item() == expected


def test_a_small_error_survives_float32() -> None:
    """Where p_t rounds to 1 the true class still counts for half of the score."""
    logits, labels = voxel(20.0, 0.0, label=0)
    objective = losses.build("brier", 2)
    assert torch.softmax(logits.float(), 1)[0, 0] == 1
    assert objective(logits.float(), labels).item() == pytest.approx(objective(logits, labels).item(), rel=1e-5, abs=0)


def test_fcl_is_focal_plus_weight_times_score() -> None:
    logits, labels = random_batch()
    focal = losses.build("focal", 3, gamma=2.0)(logits, labels).item()
    brier = losses.build("brier", 3)(logits, labels).item()
    assert losses.build("fcl", 3, weight=0.3)(logits, labels).item() == pytest.approx(focal + 0.3 * brier, rel=1e-14)
    constant = losses.build("sa_fcl", 3, weight=0.3, gamma_calibration=0.0)(logits, labels).item()
    assert constant == pytest.approx(focal + 0.3 * brier, rel=1e-14)


@pytest.mark.parametrize("case", ["2d_c4", "2d_c2", "3d_c4", "2d_allbg"])
def test_official_values(case: str) -> None:
    check_golden(f"brier__{case}.npz", "brier", {"default": {}, "sdc_mean": {"class_reduction": "mean"}})
    variants = {
        "fcl_g2_l1": {},
        "fcl_g3_l0.5": {"gamma": 3.0, "weight": 0.5},
        "sdc_g3_l0.1": {"gamma": 3.0, "weight": 0.1, "class_reduction": "mean"},
    }
    check_golden(f"fcl__{case}.npz", "fcl", variants)
    check_golden(f"fcl__{case}.npz", "sa_fcl", {"safcl_g2_gc2_l1": {}})


@pytest.mark.parametrize("class_reduction", ["sum", "mean"])
def test_gradient_and_ignored_voxels(class_reduction: str) -> None:
    check_gradient("sa_fcl", gamma_calibration=0.0, class_reduction=class_reduction)
    check_gradient("fcl", class_reduction=class_reduction)
    for name in ("brier", "fcl", "sa_fcl"):
        check_ignored(name, class_reduction=class_reduction)
        check_all_ignored(name, class_reduction=class_reduction)


def test_options_out_of_range_are_refused() -> None:
    with pytest.raises(ValueError, match="gamma_calibration must not be negative"):
        losses.build("sa_fcl", 3, gamma_calibration=-0.5)
    with pytest.raises(ValueError, match="gamma must not be negative"):
        losses.build("fcl", 3, gamma=-1.0)
    for name in ("brier", "sa_fcl"):
        with pytest.raises(ValueError, match="^class_reduction must be"):
            losses.build(name, 3, class_reduction="max")
