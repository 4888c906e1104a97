"""mL1-ACE with hard and soft bins."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from cases import (
    check_all_ignored,
    check_golden,
    check_gradient,
    check_ignored,
    golden_case,
    random_batch,
)
from torch import Tensor

from medcalib import losses
from medcalib.losses.ace import BinSums, hard_bins, soft_bins

BOTH = pytest.mark.parametrize("name", ["ml1_ace_hard", "ml1_ace_soft"])
BINS: dict[str, Callable[..., BinSums]] = {"hard": hard_bins, "soft": soft_bins}


def ace(name: str, logits: Tensor, labels: Tensor, **hyper: Any) -> Tensor:
    """The term alone."""
    return losses.build(name, logits.shape[1], **hyper).parts(logits, labels)[name]


def voxels(*probs: tuple[float, ...]) -> Tensor:
    """Logits (1, C, 1, N) in double whose softmax is `probs`, one tuple for each voxel."""
    return torch.tensor(probs, dtype=torch.float64).log().T.reshape(1, len(probs[0]), 1, len(probs))


@pytest.mark.parametrize(
    ("hyper", "expected"),
    [
        ({}, (0.2 + 0.25 + 0) / 3),
        ({"ignore_empty_classes": False}, (0.2 + 0.25 + 0.1) / 3),
        ({"include_background": False}, (0.25 + 0) / 2),
    ],
)
def test_two_voxels_by_hand_in_hard_bins(hyper: dict[str, Any], expected: float) -> None:
    """Class 0: gaps 0.3 and 0.1 in two bins; class 1: 0.25 in both; class 2, absent: 0.1 in one bin."""
    logits = voxels((0.70, 0.25, 0.05), (0.10, 0.75, 0.15))
    found = ace("ml1_ace_hard", logits, torch.tensor([[[0, 1]]]), num_bins=5, **hyper)
    assert found.item() == pytest.approx(expected, abs=1e-14)


def test_two_voxels_by_hand_in_soft_bins() -> None:
    """Centers at 0.1, 0.3, 0.5, so p = 0.25 and 0.35 share 1/4 and 3/4, 3/4 and 1/4 of bins 0 and 1, 1 and 2.

    Gaps |mean p - mean q|: 0.25 - 1, (0.75 * 0.25 + 0.75 * 0.35 - 0.75) / 1.5, 0.35; both classes are mirror
    images. The official span of 1 + 2^-23 moves centers by less than 1.2e-7, hence shares by less than 6e-7.
    """
    logits = voxels((0.75, 0.25), (0.65, 0.35))
    found = ace("ml1_ace_soft", logits, torch.tensor([[[1, 0]]]), num_bins=5)
    assert found.item() == pytest.approx((0.75 + 0.2 + 0.35) / 3, abs=2e-6)


@pytest.mark.parametrize("case", ["2d_c4", "2d_c2", "3d_c4", "2d_allbg"])
def test_official_values(case: str) -> None:
    dice = {"squared": True, "smooth_nr": 0.0, "smooth_dr": 1e-5}
    other = {"num_bins": 15, "include_background": False, "ignore_empty_classes": False}
    variants: dict[str, Any] = {
        "hard": [(1.0, "ml1_ace_hard", {}), (-1.0, "ce", {})],
        "hard_nobg_noempty_b15": [(1.0, "ml1_ace_hard", other), (-1.0, "ce", {})],
        "soft": [(1.0, "ml1_ace_soft", {}), (-1.0, "ce", {})],
    }
    for kind in ("hard", "soft"):
        combined = [(0.33, f"ml1_ace_{kind}", {}), (0.33, "dice_ce", dice), (-0.33, "ce", {})]
        variants[f"{kind}_dicece"] = combined
    check_golden(f"ml1ace__{case}.npz", "ml1_ace_hard", variants, loose=("hard_dicece", "soft_dicece"))


@pytest.mark.parametrize("case", ["2d_c4", "2d_c2", "3d_c4", "2d_allbg"])
@pytest.mark.parametrize("kind", ["hard", "soft"])
def test_float32_gives_the_official_value(case: str, kind: str) -> None:
    stored, _, logits, labels = golden_case(f"ml1ace__{case}.npz")
    found = ace(f"ml1_ace_{kind}", logits.detach().float(), labels)
    assert found.dtype == torch.float32
    assert found.item() == pytest.approx(stored[f"loss__{kind}"].item(), rel=2e-6)


@pytest.mark.parametrize("kind", ["hard", "soft"])
def test_official_bins(kind: str) -> None:
    stored, _, logits, labels = golden_case("ml1ace__2d_c4.npz")
    valid = torch.ones_like(labels, dtype=torch.bool)
    bins = BINS[kind](torch.softmax(logits.detach(), 1), labels, valid, num_bins=20)
    weight, p, q = (torch.from_numpy(stored[f"{kind}_{part}"]) for part in ("count", "p", "gt"))
    torch.testing.assert_close(bins.weight, weight, rtol=1e-9, atol=1e-9)
    filled = weight >= 0.01
    assert filled.double().mean() > 0.5  # so that the comparison says something
    torch.testing.assert_close((bins.predicted / bins.weight)[filled], p[filled], rtol=1e-9, atol=1e-12)
    torch.testing.assert_close((bins.observed / bins.weight)[filled], q[filled], rtol=1e-9, atol=1e-12)


def test_a_multiple_of_the_width_lies_in_the_bin_below() -> None:
    probs = (torch.arange(21, dtype=torch.float64) / 20).reshape(21, 1, 1, 1)
    zeros = torch.zeros(21, 1, 1, dtype=torch.long)
    weight = hard_bins(probs, zeros, zeros == 0, num_bins=20).weight[:, 0]
    assert weight.argmax(-1).tolist() == [0, *range(20)]
    assert (weight.sum(-1) == 1).all()


def test_an_edge_belongs_to_the_bin_below() -> None:
    edge = (1 + 2.0**-23) / 2
    probs = torch.tensor([edge, math.nextafter(edge, 1)], dtype=torch.float64).reshape(2, 1, 1, 1)
    zeros = torch.zeros(2, 1, 1, dtype=torch.long)
    assert hard_bins(probs, zeros, zeros == 0, num_bins=2).weight[:, 0].tolist() == [[1, 0], [0, 1]]


@pytest.mark.parametrize("kind", ["hard", "soft"])
@pytest.mark.parametrize("num_bins", [1, 2, 20])
def test_bins_share_out_every_valid_voxel_once(kind: str, num_bins: int) -> None:
    logits, labels = random_batch()
    valid = torch.rand(labels.shape, generator=torch.Generator().manual_seed(1)) < 0.7
    probs = torch.softmax(logits.detach(), 1)
    bins = BINS[kind](probs, labels, valid, num_bins=num_bins)
    for k in range(3):
        for found, values in zip(bins, (torch.ones_like(probs[:, k]), probs[:, k], labels == k), strict=True):
            expected = (values * valid).flatten(1).sum(1).double()
            torch.testing.assert_close(found[:, k].sum(-1), expected, rtol=1e-13, atol=0)


@BOTH
def test_one_bin_compares_the_means(name: str) -> None:
    logits, labels = random_batch()
    found = ace(name, logits.detach(), labels, num_bins=1)
    target = torch.nn.functional.one_hot(labels, 3).movedim(-1, 1)
    gap = (torch.softmax(logits.detach(), 1) - target).flatten(2).mean(2).abs()
    assert found.item() == pytest.approx(gap.mean().item(), rel=1e-13)


@BOTH
def test_images_count_alike(name: str) -> None:
    logits, labels = random_batch()
    labels[0] = 0  # the other classes are present in the second image only
    one_by_one = [ace(name, logits[b : b + 1], labels[b : b + 1]).item() for b in (0, 1)]
    assert ace(name, logits, labels).item() == pytest.approx(sum(one_by_one) / 2, rel=1e-13)


@BOTH
@pytest.mark.parametrize("hyper", [{}, {"ignore_empty_classes": False}])
def test_an_image_without_valid_voxels_adds_nothing(name: str, hyper: dict[str, Any]) -> None:
    logits, labels = random_batch()
    alone = ace(name, logits[:1], labels[:1], **hyper)
    labels[1] = 255
    found = losses.build(name, 3, ignore_index=255, **hyper).parts(logits, labels)[name]
    (gradient,) = torch.autograd.grad(found, logits)
    assert found.item() == pytest.approx(alone.item() / 2, rel=1e-13)
    assert gradient[0].any()
    assert not gradient[1].any()


@BOTH
def test_a_class_that_only_ignored_voxels_have_is_absent(name: str) -> None:
    """Ignored voxels arrive with label 0."""
    logits, labels = random_batch()
    labels = labels.clamp_min(1)
    labels[:, 0] = 255
    found = losses.build(name, 3, ignore_index=255).parts(logits, labels)[name]
    assert found.item() == pytest.approx(ace(name, logits[:, :, 1:], labels[:, 1:]).item(), rel=1e-13)


@BOTH
def test_a_large_bin_keeps_its_small_gap(name: str) -> None:
    """2^21 voxels, nearly all in the last bin, which is overconfident by -log(p) = 3.4e-4 on average.

    A float32 sum of 2^20 values near 1 has a spacing of 1/8 and loses that gap. What float32 probabilities
    allow is an error of a few 2^-24 in each, so 2e-7 in a mean of gaps.
    """
    logits = torch.zeros(1, 2, 128, 128, 128)
    logits[:, 1] = 8
    logits[:, 1, 0, 0] = 0  # 128 voxels with p = 1/2
    found = ace(name, logits, torch.ones(1, 128, 128, 128, dtype=torch.long)).item()
    exact = ace(name, logits.double(), torch.ones(1, 128, 128, 128, dtype=torch.long)).item()
    assert found == pytest.approx(exact, abs=2e-7)
    if name == "ml1_ace_hard":
        assert exact == pytest.approx((0 + (1 / (1 + math.exp(8)) + 0.5) / 2) / 2, rel=1e-12)


@BOTH
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_extreme_logits_are_finite(name: str, dtype: torch.dtype) -> None:
    """One voxel certain and right, one certain and wrong: in both bins of both classes a gap of 0 or 1."""
    logits = torch.tensor([[2000.0, -2000.0], [2000.0, -2000.0]], dtype=dtype).T.reshape(1, 2, 1, 2).requires_grad_()
    found = ace(name, logits, torch.tensor([[[0, 1]]]))
    (gradient,) = torch.autograd.grad(found, logits)
    assert found.item() == pytest.approx(0.5, abs=1e-6)  # mean p = 1, mean q = 1/2
    assert gradient.isfinite().all()


@BOTH
def test_nan_shows_in_the_loss(name: str) -> None:
    logits, labels = random_batch()
    with torch.no_grad():
        logits[0, 0, 0, 0, 0] = torch.nan
    assert ace(name, logits, labels).isnan()


@BOTH
@pytest.mark.parametrize("hyper", [{}, {"num_bins": 3, "include_background": False, "ignore_empty_classes": False}])
def test_gradient_and_ignored_voxels(name: str, hyper: dict[str, Any]) -> None:
    """No probability of this batch lies within 1e-5 of an edge, which a numeric gradient would step over."""
    check_gradient(name, **hyper)
    check_ignored(name, **hyper)
    check_all_ignored(name, **hyper)


@BOTH
def test_options_out_of_range_are_refused(name: str) -> None:
    with pytest.raises(ValueError, match="num_bins must lie in 1"):
        losses.build(name, 3, num_bins=0)
