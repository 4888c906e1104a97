"""The adaptive and conditional penalty."""

from __future__ import annotations

from typing import Any, Literal

import pytest
import torch
from cases import check_all_ignored, check_golden, check_gradient, check_ignored, random_batch, voxel
from torch import Tensor

from medcalib import losses
from medcalib.losses.acls import acls_penalty

VALID = torch.ones(1, 1, 1, dtype=torch.bool)
DEFAULTS: dict[str, Any] = {"margin": 5.0, "weight_top": 1.0, "weight_rest": 0.1, "top_reference": "zero"}


def penalty(logits: Tensor, labels: Tensor, **options: Any) -> Tensor:
    return acls_penalty(logits, labels, torch.ones_like(labels, dtype=torch.bool), **DEFAULTS | options)


@pytest.mark.parametrize(("top_reference", "top"), [("zero", 49), ("min", 100)])
def test_a_voxel_by_hand(top_reference: Literal["zero", "min"], top: float) -> None:
    """Logits 12, 5, -3, margin 5: the largest lies 12 above zero, 15 above the least, 7 and 15 above the others."""
    logits, labels = voxel(12.0, 5.0, -3.0, label=1)
    options = {"weight_top": 2.0, "weight_rest": 0.5, "top_reference": top_reference}
    assert penalty(logits, labels, **options).item() == pytest.approx(2 * top + 0.5 * (4 + 100) / 2, abs=1e-12)
    parts = losses.build("acls", 3, margin=5.0, weight=0.3, **options).parts(logits, labels)
    assert parts["acls"].item() == pytest.approx(0.3 * (2 * top + 0.5 * (4 + 100) / 2), abs=1e-12)


@pytest.mark.parametrize(("top_reference", "top"), [("zero", [14.0, 0.0, 0.0]), ("min", [20.0, 0.0, -20.0])])
def test_the_gradient_of_a_voxel_by_hand(top_reference: Literal["zero", "min"], top: list[float]) -> None:
    """The distances of the smaller logits push those alone: the largest is a constant there."""
    logits, labels = voxel(12.0, 5.0, -3.0, label=1)
    logits.requires_grad_()
    (found,) = torch.autograd.grad(penalty(logits, labels, top_reference=top_reference, weight_rest=0.0), logits)
    assert found.flatten().tolist() == pytest.approx(top)
    (found,) = torch.autograd.grad(penalty(logits, labels, weight_top=0.0, weight_rest=0.1), logits)
    assert found.flatten().tolist() == pytest.approx([0.0, -0.1 * 2 * 2 / 2, -0.1 * 2 * 10 / 2])


def test_classes_that_tie_for_the_largest_each_count() -> None:
    logits, labels = voxel(8.0, 8.0, 4.0, label=0)
    logits.requires_grad_()
    found = penalty(logits, labels)
    assert found.item() == pytest.approx(9 + 9, abs=1e-14)
    assert torch.autograd.grad(found, logits)[0].flatten().tolist() == pytest.approx([6.0, 6.0, 0.0])


def test_logits_within_the_margin_are_free() -> None:
    logits, labels = random_batch()
    inside = (logits / logits.abs().max() * 2.4).detach().requires_grad_()
    for top_reference in ("zero", "min"):
        found = penalty(inside, labels, top_reference=top_reference)
        assert found.item() == 0
        assert not torch.autograd.grad(found, inside)[0].any()


def test_only_the_reference_min_ignores_a_shift_of_all_logits() -> None:
    logits, labels = random_batch()
    shifted = logits + 3.0
    torch.testing.assert_close(
        penalty(logits, labels, top_reference="min"), penalty(shifted, labels, top_reference="min")
    )
    assert penalty(shifted, labels).item() > 1.1 * penalty(logits, labels).item()


@pytest.mark.parametrize("case", ["2d_c4", "2d_c2", "3d_c4", "2d_allbg"])
def test_official_values(case: str) -> None:
    check_golden(f"acls__{case}.npz", "acls", {"default": {}, "m5": {"margin": 5.0}})


@pytest.mark.parametrize("top_reference", ["zero", "min"])
def test_gradient_and_ignored_voxels(top_reference: str) -> None:
    """The numeric gradient sees through the constant of the second summand, so that one is left out of it."""
    check_gradient("acls", margin=2.0, weight=1.0, weight_rest=0.0, top_reference=top_reference)
    check_ignored("acls", margin=2.0, top_reference=top_reference)
    check_all_ignored("acls", top_reference=top_reference)


@pytest.mark.parametrize(
    ("option", "value"),
    [("margin", 0.0), ("weight_top", -1.0), ("weight_rest", float("inf")), ("top_reference", "max")],
)
def test_options_out_of_range_are_refused(option: str, value: object) -> None:
    with pytest.raises(ValueError, match=f"^{option} must be"):
        losses.build("acls", 3, **{option: value})
