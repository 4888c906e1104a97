"""The Brier score of each class: exact, and the sum of its parts."""

from __future__ import annotations

import math
from fractions import Fraction
from functools import reduce
from operator import add

import numpy as np
import pytest
import torch
from helpers import smooth_case

from medcalib.metrics import CalibrationCounts, score_case
from medcalib.metrics.brier_parts import brier_parts, classwise_brier


def test_four_voxels_by_hand() -> None:
    """p = 0.75, 0.75 with labels 1, 0 and p = 0.25, 0.25 with labels 0, 0; two bins."""
    p = torch.tensor([0.75, 0.75, 0.25, 0.25])
    counts = CalibrationCounts.from_probs(torch.stack([1 - p, p])[None], torch.tensor([[1, 0, 0, 0]]))
    parts = {name: float(values[1]) for name, values in brier_parts(counts, bins=2)._asdict().items()}
    assert parts["brier"] == pytest.approx((0.0625 + 0.5625 + 0.0625 + 0.0625) / 4, abs=1e-15)
    assert parts["reliability"] == pytest.approx(0.5 * 0.0625 + 0.5 * 0.0625, abs=1e-15)
    assert parts["resolution"] == pytest.approx(0.5 * 0.0625 + 0.5 * 0.0625, abs=1e-15)
    assert parts["uncertainty"] == pytest.approx(0.1875, abs=1e-15)
    assert (parts["within_variance"], parts["within_covariance"]) == (0, 0)


@pytest.mark.parametrize("bins", [1, 10, 15, 100])
@pytest.mark.parametrize("sharpness", [1.0, 6.0])
def test_parts_add_up_to_the_exact_score(bins: int, sharpness: float) -> None:
    probs, labels = smooth_case(2, sharpness=sharpness)
    parts = brier_parts(CalibrationCounts.from_probs(probs[None], labels[None]), bins)
    total = parts.reliability - parts.resolution + parts.uncertainty + parts.within_variance - parts.within_covariance
    for k in range(4):
        errors = [
            (Fraction(float(p)) - int(y == k)) ** 2 for p, y in zip(probs[k].ravel(), labels.ravel(), strict=True)
        ]
        exact = float(sum(errors) / len(errors))
        assert float(parts.brier[k]) == pytest.approx(exact, abs=1e-12)
        assert float(total[k]) == pytest.approx(exact, abs=1e-12)


def test_each_part_is_what_its_formula_says() -> None:
    probs, labels = smooth_case(4)
    parts = brier_parts(CalibrationCounts.from_probs(probs[None], labels[None]), 10)
    p, y = probs[2].double().numpy().ravel(), (labels == 2).numpy().ravel().astype(float)
    index = np.maximum(np.ceil(p * 10).astype(int) - 1, 0)
    means = {b: (p[index == b].mean(), y[index == b].mean()) for b in np.unique(index)}
    at = np.array([means[b] for b in index])
    expected = {
        "reliability": ((at[:, 0] - at[:, 1]) ** 2).mean(),
        "resolution": ((at[:, 1] - y.mean()) ** 2).mean(),
        "uncertainty": y.mean() * (1 - y.mean()),
        "within_variance": ((p - at[:, 0]) ** 2).mean(),
        "within_covariance": 2 * ((p - at[:, 0]) * (y - at[:, 1])).mean(),
    }
    for name, value in expected.items():
        assert float(getattr(parts, name)[2]) == pytest.approx(value, abs=1e-12), name


def test_the_scores_of_the_classes_add_up_to_that_of_all() -> None:
    probs, labels = smooth_case(1)
    case = score_case(probs, labels, case_id="x", class_names="abcd", distances=False, composites={"u": (0, 2)})
    for region in case.regions.values():
        assert float(classwise_brier(region.calibration)[:4].sum()) == pytest.approx(region.sums.brier(), abs=1e-12)
    inside = probs[[0, 2]].double().sum(0).clamp(max=1)
    hit = torch.isin(labels, torch.tensor([0, 2]))
    expected = float((inside - hit.double()).square().mean())
    assert float(classwise_brier(case.regions["all"].calibration)[4]) == pytest.approx(expected, abs=1e-12)


def test_pooled_equals_all_voxels_at_once() -> None:
    cases = [smooth_case(seed) for seed in range(3)]
    pooled = reduce(add, (CalibrationCounts.from_probs(p[None], y[None]) for p, y in cases))
    whole = CalibrationCounts.from_probs(*(torch.stack(parts) for parts in zip(*cases, strict=True)))
    assert torch.equal(classwise_brier(pooled), classwise_brier(whole))


def test_without_voxels_or_sums_there_is_no_score() -> None:
    probs, labels = smooth_case(0)
    empty = CalibrationCounts.from_probs(probs[None], labels[None], mask=torch.zeros_like(labels)[None])
    assert all(values.isnan().all() for values in brier_parts(empty))
    assert all(math.isnan(v) for v in classwise_brier(CalibrationCounts.from_logits(probs[None], labels[None])))
    with pytest.raises(ValueError, match="made from probabilities"):
        brier_parts(CalibrationCounts.from_logits(probs[None], labels[None]))
