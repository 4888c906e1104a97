"""Focal losses."""

from __future__ import annotations

import math

import pytest
import torch
from cases import check_all_ignored, check_golden, check_gradient, check_ignored, random_batch, voxel

from medcalib import losses

NAMES = ["focal", "flsd53", "dual_focal"]


def test_a_voxel_by_hand() -> None:
    logits, labels = voxel(math.log(1), math.log(3), label=1)
    loss = losses.build("focal", 2, gamma=2.0)(logits, labels).item()
    assert loss == pytest.approx(0.25**2 * -math.log(0.75), abs=1e-15)


@pytest.mark.parametrize(("true", "exponent"), [(0.1, 5), (0.25, 3), (0.45, 3), (0.75, 1.5)])
def test_a_voxel_of_flsd53_by_hand(true: float, exponent: float) -> None:
    """Loss and gradient are those of the focal loss with the exponent of that probability."""
    logits, labels = voxel(math.log(1 - true), math.log(true), label=1)
    logits.requires_grad_()
    loss = losses.build("flsd53", 2, gamma=1.5)(logits, labels)
    assert loss.item() == pytest.approx((1 - true) ** exponent * -math.log(true), abs=1e-14)
    focal = losses.build("focal", 2, gamma=exponent)(logits, labels)
    (gradient,), (expected,) = torch.autograd.grad(loss, logits), torch.autograd.grad(focal, logits)
    torch.testing.assert_close(gradient, expected)


@pytest.mark.parametrize(("label", "base"), [(0, 0.8), (1, 0.7 + 0.2), (2, 0.5 + 0.3)])
def test_a_voxel_of_dual_focal_by_hand(label: int, base: float) -> None:
    """Probabilities 0.2, 0.3, 0.5: the next below is none, 0.2, 0.3."""
    probs = (0.2, 0.3, 0.5)
    logits, labels = voxel(*map(math.log, probs), label=label)
    loss = losses.build("dual_focal", 3, gamma=3.0)(logits, labels).item()
    assert loss == pytest.approx(base**3 * -math.log(probs[label]), abs=1e-14)


def test_an_equal_probability_is_not_below() -> None:
    logits, labels = voxel(1.0, 1.0, 0.5, label=0)
    p_t, low = torch.softmax(logits, 1)[0, [0, 2], 0, 0].tolist()
    loss = losses.build("dual_focal", 3, gamma=1.0)(logits, labels).item()
    assert loss == pytest.approx((1 - p_t + low) * -math.log(p_t), abs=1e-14)


@pytest.mark.parametrize("case", ["2d_c4", "2d_c2", "3d_c4", "2d_allbg", "2d_c4_ignore"])
def test_official_values(case: str) -> None:
    check_golden(f"focal__{case}.npz", "focal", {"gamma1": {"gamma": 1.0}, "gamma2": {"gamma": 2.0}, "gamma3": {}})


@pytest.mark.parametrize("case", ["2d_c4", "2d_c2", "3d_c4", "2d_allbg"])
def test_official_values_of_flsd53(case: str) -> None:
    check_golden(f"flsd53__{case}.npz", "flsd53", {"default": {}, "gamma1_tail": {"gamma": 1.0}})


@pytest.mark.parametrize("case", ["2d_c4", "2d_c2"])
def test_official_values_of_dual_focal(case: str) -> None:
    check_golden(f"dual_focal__{case}.npz", "dual_focal", {"gamma2": {}})


@pytest.mark.parametrize("name", ["focal", "dual_focal"])
def test_gamma_zero_is_cross_entropy(name: str) -> None:
    logits, labels = random_batch()
    assert losses.build(name, 3, gamma=0.0)(logits, labels).item() == pytest.approx(
        losses.build("ce", 3)(logits, labels).item(), rel=1e-14
    )


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("gamma", [0.0, 0.5, 3.0])
def test_a_certain_voxel_has_a_finite_gradient(name: str, gamma: float) -> None:
    logits = torch.tensor([2000.0, 0.0]).reshape(1, 2, 1, 1).requires_grad_()
    loss = losses.build(name, 2, gamma=gamma)(logits, torch.zeros(1, 1, 1, dtype=torch.long))
    (gradient,) = torch.autograd.grad(loss, logits)
    assert gradient.isfinite().all()
    assert loss.item() == 0


@pytest.mark.parametrize("name", NAMES)
def test_gradient_and_ignored_voxels(name: str) -> None:
    check_gradient(name, gamma=2.5)
    check_ignored(name)
    check_all_ignored(name)


@pytest.mark.parametrize("name", NAMES)
def test_a_negative_gamma_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match="gamma must not be negative"):
        losses.build(name, 3, gamma=-1.0)
