"""The margin penalty of MbLS."""

from __future__ import annotations

import pytest
import torch
from cases import check_all_ignored, check_golden, check_gradient, check_ignored, random_batch, voxel

from medcalib import losses
from medcalib.losses.margin import margin_penalty

VALID = torch.ones(1, 1, 1, dtype=torch.bool)


@pytest.mark.parametrize(
    ("power", "two_sided", "expected"),
    [(1, False, (0 + 2 + 7) / 3), (2, False, (0 + 4 + 49) / 3), (2, True, (25 + 4 + 49) / 3)],
)
def test_a_voxel_by_hand(power: int, two_sided: bool, expected: float) -> None:
    """Distances 0, 7 and 12 to the largest logit under a margin of 5."""
    logits, labels = voxel(12.0, 5.0, 0.0, label=1)
    found = margin_penalty(logits, labels, VALID, margin=5.0, power=power, two_sided=two_sided)
    assert found.item() == pytest.approx(expected, abs=1e-14)


def test_distances_within_the_margin_are_free() -> None:
    logits, labels = random_batch()
    inside = logits / logits.detach().abs().max() * 4.9
    parts = losses.build("mbls", 3, margin=10.0).parts(inside, labels)
    assert parts["margin"].item() == 0
    assert not torch.autograd.grad(parts["margin"], logits)[0].any()


def test_the_penalty_ignores_a_shift_of_all_logits() -> None:
    logits, labels = random_batch()
    objective = losses.build("mbls", 3, margin=2.0)
    shifted = objective.parts(logits + 123.0, labels)["margin"]
    torch.testing.assert_close(objective.parts(logits, labels)["margin"], shifted)


def test_the_loss_is_cross_entropy_plus_weight_times_penalty() -> None:
    logits, labels = random_batch()
    parts = losses.build("mbls", 3, margin=2.0, weight=0.3).parts(logits, labels)
    penalty = margin_penalty(
        logits, labels, torch.ones_like(labels, dtype=torch.bool), margin=2.0, power=1, two_sided=False
    )
    assert parts["margin"].item() == pytest.approx(0.3 * penalty.item(), rel=1e-14)
    assert parts["cross_entropy"].item() == losses.build("ce", 3)(logits, labels).item()


@pytest.mark.parametrize("case", ["2d_c4", "2d_c2", "3d_c4", "2d_allbg", "2d_c4_ignore"])
def test_official_values(case: str) -> None:
    variants = {
        "l1_m10": {},
        "l1_m5": {"margin": 5.0},
        "l1_m3_a1": {"margin": 3.0, "weight": 1.0},
        "l2_m5": {"margin": 5.0, "power": 2, "two_sided": True},
    }
    check_golden(f"mbls__{case}.npz", "mbls", variants)


@pytest.mark.parametrize("hyper", [{}, {"power": 2}, {"power": 2, "two_sided": True}])
def test_gradient_and_ignored_voxels(hyper: dict[str, object]) -> None:
    check_gradient("mbls", margin=2.0, weight=1.0, **hyper)
    check_ignored("mbls", margin=2.0, **hyper)
    check_all_ignored("mbls", **hyper)


def test_options_out_of_range_are_refused() -> None:
    with pytest.raises(ValueError, match="margin must be positive"):
        losses.build("mbls", 3, margin=0.0)
    with pytest.raises(ValueError, match="two_sided=True needs power=2"):
        losses.build("mbls", 3, two_sided=True)
    with pytest.raises(ValueError, match="weight must be"):
        losses.build("mbls", 3, weight=-0.1)
