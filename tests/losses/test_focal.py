"""Focal loss."""

from __future__ import annotations

import math

import pytest
import torch
from cases import check_all_ignored, check_golden, check_gradient, check_ignored, random_batch, voxel

from medcalib import losses


def test_a_voxel_by_hand() -> None:
    logits, labels = voxel(math.log(1), math.log(3), label=1)
    loss = losses.build("focal", 2, gamma=2.0)(logits, labels).item()
    assert loss == pytest.approx(0.25**2 * -math.log(0.75), abs=1e-15)


@pytest.mark.parametrize("case", ["2d_c4", "2d_c2", "3d_c4", "2d_allbg", "2d_c4_ignore"])
def test_official_values(case: str) -> None:
    check_golden(f"focal__{case}.npz", "focal", {"gamma1": {"gamma": 1.0}, "gamma2": {"gamma": 2.0}, "gamma3": {}})


def test_gamma_zero_is_cross_entropy() -> None:
    logits, labels = random_batch()
    assert losses.build("focal", 3, gamma=0.0)(logits, labels).item() == pytest.approx(
        losses.build("ce", 3)(logits, labels).item(), rel=1e-14
    )


@pytest.mark.parametrize("gamma", [0.0, 0.5, 3.0])
def test_a_certain_voxel_has_a_finite_gradient(gamma: float) -> None:
    logits = torch.tensor([2000.0, 0.0]).reshape(1, 2, 1, 1).requires_grad_()
    loss = losses.build("focal", 2, gamma=gamma)(logits, torch.zeros(1, 1, 1, dtype=torch.long))
    (gradient,) = torch.autograd.grad(loss, logits)
    assert gradient.isfinite().all()
    assert loss.item() == 0


def test_gradient_and_ignored_voxels() -> None:
    check_gradient("focal", gamma=2.5)
    check_ignored("focal")
    check_all_ignored("focal")


def test_a_negative_gamma_is_refused() -> None:
    with pytest.raises(ValueError, match="gamma must not be negative"):
        losses.build("focal", 3, gamma=-1.0)
