"""Mean probability against frequency of each class."""

from __future__ import annotations

import math

import pytest
import torch
from cases import check_all_ignored, check_golden, check_gradient, check_ignored, random_batch
from torch import Tensor

from medcalib import losses


def mdca(logits: Tensor, labels: Tensor, **options: object) -> Tensor:
    """The term alone."""
    return losses.build("mdca", logits.shape[1], **options).parts(logits, labels)["mdca"]


def same_everywhere(probs: tuple[float, ...], labels: list[list[int]]) -> tuple[Tensor, Tensor]:
    """Images (B, C, N) whose voxels all have these probabilities."""
    targets = torch.tensor(labels)
    logits = torch.tensor(probs, dtype=torch.float64).log().reshape(1, -1, 1)
    return logits.expand(len(labels), -1, targets.shape[1]).clone(), targets


def test_three_voxels_by_hand() -> None:
    """Mean probabilities 1/4 and 3/4, frequencies 1/3 and 2/3: both differ by 1/12."""
    logits, labels = same_everywhere((0.25, 0.75), [[1, 0, 1]])
    assert mdca(logits, labels).item() == pytest.approx(1 / 12, abs=1e-15)


def test_two_images_by_hand() -> None:
    """0.4 and 0.6 against frequencies 1/2, 1/2 and 1/4, 3/4; together against 3/8, 5/8."""
    logits, labels = same_everywhere((0.4, 0.6), [[0, 1, 1, 0], [0, 1, 1, 1]])
    assert mdca(logits, labels).item() == pytest.approx(0.025, abs=1e-15)
    assert mdca(logits, labels, per_image=True).item() == pytest.approx((0.1 + 0.15) / 2, abs=1e-15)


def test_it_is_zero_where_mean_probabilities_are_the_frequencies() -> None:
    """No voxel is right, the frequencies are."""
    labels = torch.arange(12).reshape(1, 3, 4) % 3
    logits = 50 * torch.nn.functional.one_hot((labels + 1) % 3, 3).movedim(-1, 1).double()
    assert mdca(logits, labels).item() == pytest.approx(0, abs=1e-15)
    assert losses.build("ce", 3)(logits, labels).item() > 49


def test_an_image_without_a_valid_voxel_is_left_out() -> None:
    logits, labels = random_batch()
    labels[0] = 255
    found = mdca(logits, labels, ignore_index=255, per_image=True)
    torch.testing.assert_close(found, mdca(logits[1:], labels[1:], per_image=True))


def test_images_count_alike_whatever_is_ignored() -> None:
    logits, labels = random_batch()
    labels[0, 1:] = 255
    found = mdca(logits, labels, ignore_index=255, per_image=True)
    each = [mdca(logits[:1, :, :1], labels[:1, :1]), mdca(logits[1:], labels[1:])]
    torch.testing.assert_close(found, torch.stack(each).mean())


@pytest.mark.parametrize("case", ["2d_c4", "2d_c2", "3d_c4", "2d_allbg"])
def test_official_values(case: str) -> None:
    variants = {
        "nll_beta1": {},
        "only": [(1.0, "mdca", {}), (-1.0, "ce", {})],
        "fl3_beta10": [(1.0, "focal", {"gamma": 3.0}), (1.0, "mdca", {"weight": 10.0}), (-1.0, "ce", {})],
    }
    check_golden(f"mdca__{case}.npz", "mdca", variants)


@pytest.mark.parametrize("per_image", [False, True])
def test_gradient_and_ignored_voxels(per_image: bool) -> None:
    check_gradient("mdca", per_image=per_image)
    check_ignored("mdca", per_image=per_image)
    check_all_ignored("mdca", per_image=per_image)


def test_options_out_of_range_are_refused() -> None:
    with pytest.raises(ValueError, match="weight must be"):
        losses.build("mdca", 3, weight=-math.inf)
