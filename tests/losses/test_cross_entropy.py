"""Cross-entropy and label smoothing against torch, the official values, and by hand."""

from __future__ import annotations

import math

import pytest
import torch
from cases import check_all_ignored, check_golden, check_gradient, check_ignored, random_batch, voxel
from torch.nn.functional import cross_entropy

from medcalib import losses


def test_a_voxel_by_hand() -> None:
    logits, labels = voxel(math.log(2), math.log(3), math.log(5), label=2)
    assert losses.build("ce", 3)(logits, labels).item() == pytest.approx(-math.log(0.5), abs=1e-14)
    uniform = losses.build("label_smoothing", 3, smoothing=0.3)(logits, labels).item()
    others = losses.build("label_smoothing", 3, smoothing=0.3, mode="others")(logits, labels).item()
    total = -math.log(0.2) - math.log(0.3) - math.log(0.5)
    assert uniform == pytest.approx(0.7 * -math.log(0.5) + 0.1 * total, abs=1e-14)
    assert others == pytest.approx(0.7 * -math.log(0.5) + 0.15 * (-math.log(0.2) - math.log(0.3)), abs=1e-14)


def test_both_are_torch_s_own() -> None:
    logits, labels = random_batch()
    assert losses.build("ce", 3)(logits, labels).item() == pytest.approx(
        cross_entropy(logits, labels).item(), rel=1e-14
    )
    ours = losses.build("label_smoothing", 3, smoothing=0.2)(logits, labels).item()
    assert ours == pytest.approx(cross_entropy(logits, labels, label_smoothing=0.2).item(), rel=1e-13)


@pytest.mark.parametrize("case", ["2d_c4", "2d_c2", "3d_c4", "2d_allbg", "2d_c4_ignore"])
def test_official_values(case: str) -> None:
    check_golden(f"ce__{case}.npz", "ce", {"default": {}})
    smoothed = {"uniform_0.1": {}, "uniform_0.05": {"smoothing": 0.05}, "others_0.1": {"mode": "others"}}
    check_golden(f"ls__{case}.npz", "label_smoothing", smoothed)


def test_smoothing_is_lowest_at_the_smoothed_target() -> None:
    """The zero of the gradient: p_t = 1 - a + a/C."""
    target = torch.tensor([0.05, 0.05, 0.9], dtype=torch.float64)
    logits = target.log().reshape(1, 3, 1, 1).requires_grad_()
    loss = losses.build("label_smoothing", 3, smoothing=0.15)(logits, torch.full((1, 1, 1), 2))
    (gradient,) = torch.autograd.grad(loss, logits)
    assert gradient.abs().max() < 1e-15


@pytest.mark.parametrize("name", ["ce", "label_smoothing"])
def test_gradient_and_ignored_voxels(name: str) -> None:
    check_gradient(name)
    check_ignored(name)
    check_all_ignored(name)


@pytest.mark.parametrize("smoothing", [-0.1, 1.0, float("nan")])
def test_smoothing_out_of_range_is_refused(smoothing: float) -> None:
    with pytest.raises(ValueError, match="smoothing must (lie in|be a finite)"):
        losses.build("label_smoothing", 3, smoothing=smoothing)
