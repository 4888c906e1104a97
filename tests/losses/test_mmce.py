"""MMCE and its weighted form."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from cases import check_all_ignored, check_golden, check_gradient, check_ignored, random_batch
from torch import Tensor

from medcalib import losses
from medcalib.losses.mmce import mmce_penalty, sampled_voxels

WEIGHTINGS = pytest.mark.parametrize("weighting", ["none", "official", "mean"])
KERNEL = math.exp(-0.2 / 0.4)  # of confidences 0.8 and 0.6


def voxels(*probs: tuple[float, ...]) -> Tensor:
    """Logits (1, C, 1, N) in double whose softmax is `probs`, one tuple for each voxel."""
    return torch.tensor(probs, dtype=torch.float64).log().T.reshape(1, len(probs[0]), 1, len(probs)).requires_grad_()


def penalty(logits: Tensor, labels: Tensor, weighting: str = "none", **hyper: Any) -> Tensor:
    chosen = {"kernel_width": 0.4, "max_voxels": None, "seed": 0} | hyper
    return mmce_penalty(logits, labels, torch.ones_like(labels, dtype=torch.bool), weighting=weighting, **chosen)


def all_pairs(logits: Tensor, labels: Tensor, weighting: str, width: float) -> Tensor:
    """The definition, with a table of all pairs."""
    confidence, predicted = torch.softmax(logits, 1).movedim(1, -1).reshape(-1, logits.shape[1]).max(1)
    correct = predicted == labels.flatten()
    kernel = (-(confidence[:, None] - confidence).abs() / width).exp()
    gap = correct.double() - confidence
    if weighting == "none":
        return (gap[:, None] * gap * kernel).mean()
    table = gap[:, None] * gap * kernel
    parts = []
    for rows in (correct, ~correct):
        for columns in (correct, ~correct):
            block = table[rows][:, columns]
            parts.append(block.mean() / (block.numel() + 1e-5) if weighting == "official" else block.mean())
    return (torch.stack(parts).sum() + 1e-10).sqrt()


@pytest.mark.parametrize(
    ("weighting", "expected"),
    [
        ("none", (0.04 + 4 * 0.36 - 4 * 0.12 * KERNEL) / 9),
        ("mean", math.sqrt(0.04 + 0.36 - 2 * 0.12 * KERNEL + 1e-10)),
        (
            "official",
            math.sqrt(0.04 / (1 + 1e-5) + 0.36 / (4 + 1e-5) - 2 * 0.12 * KERNEL / (2 + 1e-5) + 1e-10),
        ),
    ],
)
def test_three_voxels_by_hand(weighting: str, expected: float) -> None:
    """One correct with a confidence of 0.8, two incorrect with 0.6: c - m is 0.2, -0.6, -0.6."""
    logits = voxels((0.8, 0.2), (0.4, 0.6), (0.4, 0.6))
    found = penalty(logits, torch.zeros(1, 1, 3, dtype=torch.long), weighting)
    assert found.item() == pytest.approx(expected, rel=1e-13)


@pytest.mark.parametrize("case", ["2d_c4", "2d_c2", "2d_allbg"])
def test_official_values(case: str) -> None:
    variants = {
        "default": {"max_voxels": None},
        "weighted": {"max_voxels": None, "weighting": "official"},
        "weighted_lamda4": {"max_voxels": None, "weighting": "official", "weight": 4.0},
    }
    check_golden(f"mmce__{case}.npz", "mmce", variants)


@WEIGHTINGS
@pytest.mark.parametrize("width", [0.01, 0.4, 100.0])
def test_running_sums_equal_all_pairs(weighting: str, width: float) -> None:
    """Value and gradient, with many voxels of equal confidence, whose kernel has the gradient sign(0) = 0."""
    logits, labels = random_batch(shape=(2, 4, 4, 4))
    with torch.no_grad():
        logits[1] = logits[0].flip(0)  # the same confidences in other classes
        logits[0, :, :2] = logits[0, :, 2:]
    found, expected = (
        penalty(logits, labels, weighting, kernel_width=width),
        all_pairs(logits, labels, weighting, width),
    )
    torch.testing.assert_close(found, expected, rtol=1e-11, atol=0)
    gradients = [torch.autograd.grad(value, logits)[0] for value in (found, expected)]
    torch.testing.assert_close(*gradients, rtol=1e-9, atol=1e-11 * float(gradients[1].abs().max()))


@pytest.mark.parametrize("weighting", ["official", "mean"])
@pytest.mark.parametrize("label", [0, 1])
def test_the_weighted_form_is_zero_when_all_or_none_are_correct(weighting: str, label: int) -> None:
    logits = voxels((0.8, 0.2), (0.7, 0.3))
    found = penalty(logits, torch.full((1, 1, 2), label), weighting)
    assert found.item() == 0
    assert not torch.autograd.grad(found, logits)[0].any()


def test_a_sum_that_the_official_constant_makes_negative_has_a_root() -> None:
    """One correct and two incorrect voxels, all of confidence 2/3: -0.25e-5 / 9 under the root."""
    logits = voxels((2 / 3, 1 / 3), (1 / 3, 2 / 3), (1 / 3, 2 / 3))
    found = penalty(logits, torch.zeros(1, 1, 3, dtype=torch.long), "official")
    assert found.item() == pytest.approx(1e-5, rel=1e-12)
    assert torch.autograd.grad(found, logits)[0].isfinite().all()


def labeled(shape: tuple[int, ...] = (2, 16, 16, 16), seed: int = 0) -> tuple[Tensor, Tensor]:
    """Labels 0..3 of unequal frequency, 3 in very few voxels, and a mask of valid voxels."""
    generator = torch.Generator().manual_seed(seed)
    labels = (4 * torch.rand(shape, generator=generator) ** 3).long()
    return labels, torch.rand(shape, generator=generator) < 0.7


def test_the_sample_is_a_function_of_its_arguments() -> None:
    labels, valid = labeled()
    state = torch.get_rng_state()
    first = sampled_voxels(labels, valid, 4, 200, 7)
    torch.rand(5)
    assert torch.equal(first, sampled_voxels(labels, valid, 4, 200, 7))
    assert not torch.equal(first, sampled_voxels(labels, valid, 4, 200, 8))
    torch.set_rng_state(state)
    sampled_voxels(labels, valid, 4, 200, 7)
    assert torch.equal(torch.get_rng_state(), state)  # the generator of the training loop is left alone


@pytest.mark.parametrize("max_voxels", [1, 7, 200, 3000])
def test_the_sample_is_in_proportion_and_valid(max_voxels: int) -> None:
    """A class of x strata fills more than x - 2 of them and touches fewer than x + 2; strata differ by a voxel."""
    labels, valid = labeled()
    for seed in range(20):
        chosen = sampled_voxels(labels, valid, 4, max_voxels, seed)
        assert len(chosen) == len(chosen.unique()) == max_voxels
        assert valid.flatten()[chosen].all()
        for k in range(4):
            share = int((labels[valid] == k).sum()) / int(valid.sum()) * max_voxels
            assert abs(int((labels.flatten()[chosen] == k).sum()) - share) < 2 + 1e-9


def test_every_voxel_can_be_drawn() -> None:
    """40 voxels in 10 strata of 4: one stays away from 200 draws with probability 0.75^200 = 1e-25."""
    labels = torch.zeros(1, 5, 8, dtype=torch.long)
    drawn = torch.cat([sampled_voxels(labels, labels == 0, 2, 10, seed) for seed in range(200)])
    assert len(drawn.unique()) == 40


@pytest.mark.parametrize("extra", [0, 1, 10**6])
def test_few_voxels_are_all_taken(extra: int) -> None:
    labels, valid = labeled((1, 5, 6))
    chosen = sampled_voxels(labels, valid, 4, int(valid.sum()) + extra, 0)
    assert torch.equal(chosen.sort().values, valid.flatten().nonzero().squeeze(1))


def test_a_sample_estimates_all_pairs() -> None:
    """sqrt(MMCE^2) is the norm of a mean of vectors (c_i - m_i) phi(m_i) of length |c_i - m_i|.

    The mean of M drawn ones differs by a vector of mean square (1/M) mean (c_i - m_i)^2, or less with strata;
    four times its root is a bound that a sound draw keeps, and 30% of the value here.
    """
    logits, labels = random_batch(classes=4, shape=(2, 24, 24, 24))
    confidence, predicted = torch.softmax(logits.detach(), 1).max(1)
    full = penalty(logits, labels).sqrt().item()
    bound = 4 * math.sqrt(((predicted == labels).double() - confidence).square().mean().item() / 2048)
    estimates = [penalty(logits, labels, max_voxels=2048, seed=seed).sqrt().item() for seed in range(5)]
    assert all(abs(estimate - full) < bound < 0.3 * full for estimate in estimates)
    assert len(set(estimates)) == 5


def test_only_sampled_voxels_get_a_gradient() -> None:
    logits, labels = random_batch(shape=(2, 6, 6, 6))
    (gradient,) = torch.autograd.grad(penalty(logits, labels, max_voxels=50), logits)
    touched = gradient.any(1).flatten().nonzero().squeeze(1)
    chosen = sampled_voxels(labels, torch.ones_like(labels, dtype=torch.bool), 3, 50, 0)
    assert torch.equal(touched, chosen.sort().values)


def test_a_perfect_prediction_costs_nothing() -> None:
    _, labels = random_batch()
    logits = 2000.0 * torch.nn.functional.one_hot(labels, 3).movedim(-1, 1)
    assert penalty(logits, labels).item() == 0


@WEIGHTINGS
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_extreme_logits_are_finite(weighting: str, dtype: torch.dtype) -> None:
    logits, labels = random_batch()
    extreme = (2000 * logits.detach().sign()).to(dtype).requires_grad_()
    found = penalty(extreme, labels, weighting, kernel_width=0.01)
    (gradient,) = torch.autograd.grad(found, extreme)
    assert found.isfinite()
    assert gradient.isfinite().all()


@WEIGHTINGS
def test_nan_shows_in_the_loss(weighting: str) -> None:
    logits, labels = random_batch()
    with torch.no_grad():
        logits[0, 0, 0, 0, 0] = torch.nan
    assert penalty(logits, labels, weighting).isnan()


@WEIGHTINGS
@pytest.mark.parametrize("max_voxels", [None, 20])
def test_gradient_and_ignored_voxels(weighting: str, max_voxels: int | None) -> None:
    hyper = {"weighting": weighting, "max_voxels": max_voxels}
    check_gradient("mmce", **hyper)
    check_ignored("mmce", **hyper)
    check_all_ignored("mmce", **hyper)


@pytest.mark.parametrize(
    ("hyper", "words"),
    [
        ({"kernel_width": 0.0}, "kernel_width must be at least 0.01"),
        ({"kernel_width": math.inf}, "kernel_width must be a finite number"),
        ({"max_voxels": 0}, "max_voxels must be positive"),
        ({"weighting": "double"}, "weighting must be one of 'none'"),
    ],
)
def test_options_out_of_range_are_refused(hyper: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        losses.build("mmce", 3, **hyper)
