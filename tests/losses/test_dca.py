"""Mean confidence against accuracy."""

from __future__ import annotations

import math

import pytest
import torch
from cases import check_all_ignored, check_golden, check_gradient, check_ignored, random_batch
from torch import Tensor

from medcalib import losses


def confident(labels: list[int]) -> tuple[Tensor, Tensor]:
    """Voxels that give class 1 the probability 0.75, class 0 the rest."""
    logits = torch.tensor([0.0, math.log(3)], dtype=torch.float64).reshape(1, 2, 1).repeat(1, 1, len(labels))
    return logits.requires_grad_(), torch.tensor(labels).reshape(1, -1)


@pytest.mark.parametrize(
    ("labels", "expected"), [([1, 0], 0.25), ([1, 1], 0.25), ([0, 0, 0], 0.75), ([1, 1, 0, 1], 0.0)]
)
def test_voxels_by_hand(labels: list[int], expected: float) -> None:
    """Confidence 0.75 against accuracy 1/2, 1, 0 and 3/4."""
    parts = losses.build("dca", 2, weight=2.0).parts(*confident(labels))
    assert parts["dca"].item() == pytest.approx(2 * expected, abs=1e-15)


@pytest.mark.parametrize(("labels", "sign"), [([1, 0], 1), ([1, 1], -1)])
def test_the_gradient_is_that_of_the_mean_confidence(labels: list[int], sign: int) -> None:
    """dp/dz = p (1 - p) at each of two voxels, lowered above the accuracy and raised below it."""
    logits, targets = confident(labels)
    (gradient,) = torch.autograd.grad(losses.build("dca", 2).parts(logits, targets)["dca"], logits)
    expected = sign * 0.75 * 0.25 / 2 * torch.tensor([-1.0, 1.0], dtype=torch.float64).reshape(1, 2, 1)
    torch.testing.assert_close(gradient, expected.expand(1, 2, 2))


def test_images_of_a_batch_are_pooled() -> None:
    logits, labels = random_batch()
    one = torch.cat(tuple(logits), 1).unsqueeze(0), torch.cat(tuple(labels)).unsqueeze(0)
    objective = losses.build("dca", 3)
    torch.testing.assert_close(objective(logits, labels), objective(*one))


@pytest.mark.parametrize("case", ["2d_c4", "2d_c2", "3d_c4", "2d_allbg"])
def test_official_values(case: str) -> None:
    check_golden(f"dca__{case}.npz", "dca", {"beta1": {}, "beta10": {"weight": 10.0}})


def test_gradient_and_ignored_voxels() -> None:
    check_gradient("dca")
    check_ignored("dca")
    check_all_ignored("dca")


def test_options_out_of_range_are_refused() -> None:
    with pytest.raises(ValueError, match="weight must be"):
        losses.build("dca", 3, weight=-0.1)
