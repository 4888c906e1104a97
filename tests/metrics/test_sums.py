"""Brier score and negative log-likelihood against float64, exactly additive, with stated limits."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from helpers import smooth_case
from torch import Tensor

from medcalib.metrics import ScoreSums, score_case
from medcalib.metrics.case import RegionScores


def scored(probs: Tensor, labels: Tensor, region: str = "all", posterior: Tensor | None = None) -> RegionScores:
    names = [f"c{k}" for k in range(probs.shape[0])]
    options = {"class_names": names, "distances": False, "regions": [region], "posterior": posterior}
    return score_case(probs, labels, case_id="x", **options).regions[region]


def sums_of(probs: Tensor, labels: Tensor, posterior: Tensor | None = None) -> ScoreSums:
    return scored(probs, labels, posterior=posterior).sums


def test_two_voxels_by_hand() -> None:
    probs = torch.tensor([[0.75, 0.5], [0.25, 0.5]])[:, :, None, None]
    labels = torch.tensor([0, 1])[:, None, None]
    sums = sums_of(probs, labels)
    assert sums.brier() == pytest.approx((2 * 0.0625 + 0.5) / 2, abs=1e-14)
    assert sums.nll() == pytest.approx(-(math.log(0.75) + math.log(0.5)) / 2, abs=1e-14)
    assert sums.voxels == 2


@pytest.mark.parametrize("sharpness", [0.5, 3.0, 20.0])
@pytest.mark.parametrize("region", ["all", "foreground", "gt_foreground"])
def test_agrees_with_a_float64_oracle(sharpness: float, region: str) -> None:
    probs, labels = smooth_case(1, sharpness=sharpness)
    p, y = probs.double().numpy().reshape(4, -1), labels.numpy().ravel().astype(int)
    kept = {"all": y >= 0, "foreground": (y > 0) | (p.argmax(0) > 0), "gt_foreground": y > 0}[region]
    p, y = p[:, kept], y[kept]
    onehot = np.eye(4)[y].T
    true = np.maximum(p[y, np.arange(y.size)], np.finfo(np.float32).tiny)
    sums = scored(probs, labels, region).sums
    assert sums.voxels == y.size
    assert sums.brier() == pytest.approx(math.fsum(((p - onehot) ** 2).ravel()) / y.size, abs=1e-12)
    assert sums.nll() == pytest.approx(math.fsum(-np.log(true)) / y.size, abs=1e-12)


def test_the_distance_to_a_known_posterior() -> None:
    probs, labels = smooth_case(2)
    other, _ = smooth_case(3)
    expected = float((probs.double() - other.double()).abs().mean())
    assert sums_of(probs, labels, other).posterior_l1() == pytest.approx(expected, abs=1e-12)
    assert sums_of(probs, labels, probs).posterior_l1() == 0
    assert math.isnan(sums_of(probs, labels).posterior_l1())


def test_a_true_class_of_probability_zero_is_bounded_and_counted() -> None:
    probs = torch.tensor([[1.0, 1.0], [0.0, 0.0]])[:, :, None, None]
    sums = sums_of(probs, torch.tensor([1, 0])[:, None, None])
    assert sums.zero_probability == 1
    assert sums.nll() == pytest.approx(-math.log(np.finfo(np.float32).tiny) / 2)
    assert sums.brier() == 1.0


def test_addition_is_exact_and_keeps_a_posterior_only_if_all_have_one() -> None:
    probs, labels = smooth_case(4)
    whole = sums_of(probs, labels, probs)
    parts = [sums_of(probs[:, part], labels[part], probs[:, part]) for part in (slice(0, 7), slice(7, None))]
    for summed in (parts[0] + parts[1], ScoreSums.zeros() + parts[1] + parts[0]):
        assert torch.equal(summed.limbs, whole.limbs)
        assert (summed.brier(), summed.nll(), summed.posterior_l1()) == (
            whole.brier(),
            whole.nll(),
            whole.posterior_l1(),
        )
    assert math.isnan((whole + sums_of(probs, labels)).posterior_l1())


def test_no_voxel_has_no_score() -> None:
    empty = scored(*smooth_case(5)[:1], torch.zeros(20, 24, 10, dtype=torch.uint8), "gt_foreground").sums
    assert empty.voxels == 0
    assert math.isnan(empty.brier())
    assert math.isnan(empty.nll())


def test_the_true_posterior_has_the_best_expected_scores() -> None:
    """Proper scores: over label draws, no prediction beats the distribution that the labels come from."""
    rng = np.random.default_rng(0)
    truth = torch.tensor([0.2, 0.3, 0.5])[:, None, None, None].expand(3, 40, 40, 40).contiguous()
    labels = torch.from_numpy(rng.choice(3, (40, 40, 40), p=[0.2, 0.3, 0.5]))
    best = sums_of(truth, labels)
    for other in ([0.1, 0.3, 0.6], [1 / 3, 1 / 3, 1 / 3], [0.3, 0.3, 0.4]):
        worse = sums_of(torch.tensor(other)[:, None, None, None].expand(3, 40, 40, 40).contiguous(), labels)
        assert best.brier() < worse.brier()
        assert best.nll() < worse.nll()
