"""Isotonic regression: adjacent violators by hand, cells near the exact curve, the official values."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from fits import close, drawn, golden

from medcalib.calibrators import build, isotonic
from medcalib.calibrators.isotonic import Isotonic


def two_classes(p: list[float]) -> torch.Tensor:
    probs = torch.tensor(p, dtype=torch.float64)
    return torch.stack([torch.zeros_like(probs), (probs / (1 - probs)).log()], 1)


def test_adjacent_violators_by_hand() -> None:
    """p of class 1 with labels 0 1 0 0 1: 0.2 -> 0; 0.4, 0.5, 0.6 pool to 1/3; 0.8 -> 1. Between steps it is linear."""
    fitted = Isotonic(2, pooled=False).fit(two_classes([0.2, 0.4, 0.5, 0.6, 0.8]), torch.tensor([0, 1, 0, 0, 1]))
    start = int(fitted.first_[1])
    close(fitted.thresholds_[start:], [0.2, 0.4, 0.6, 0.8], 1e-15)
    close(fitted.values_[start:], [0, 1 / 3, 1 / 3, 1], 1e-15)
    at = torch.tensor([0.0, 0.2, 0.3, 0.45, 0.7, 0.9], dtype=torch.float64)
    close(fitted.mapped(1, at), [0, 0, 1 / 6, 1 / 3, 2 / 3, 1], 1e-15)


def test_pooled_by_hand() -> None:
    """Both classes of two voxels: p 0.2 0.3 0.7 0.8 came true 0 1 0 1: 0.3 and 0.7 pool to 1/2."""
    fitted = Isotonic(2).fit(two_classes([0.7, 0.8]), torch.tensor([0, 1]))
    close(fitted.thresholds_, [0.2, 0.3, 0.7, 0.8], 1e-15)
    close(fitted.values_, [0, 0.5, 0.5, 1], 1e-15)
    assert fitted.keeps_argmax


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_ties_of_the_curve_keep_the_arg_max_in_every_type(dtype: torch.dtype) -> None:
    """On a flat piece f(p) differs by 1e-9 p only, which float32 drops; class 0 must not win for being first."""
    fitted = Isotonic(2).fit(two_classes([0.6, 0.6, 0.7, 0.7]), torch.tensor([0, 1, 0, 1]))
    logits = two_classes([0.51, 0.55, 0.6, 0.65, 0.69]).to(dtype)
    assert fitted(logits).argmax(1).tolist() == [1] * 5
    assert fitted(logits).softmax(1).argmax(1).tolist() == [1] * 5


@pytest.mark.parametrize("pooled", [True, False])
def test_cells_are_near_the_exact_curve(pooled: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """A cell is 0.0006 of log-odds wide, so at most 0.00015 of probability; with it, blocks may end a point apart,
    where both curves pass within one voxel's share of their block."""
    logits, labels = drawn(2.0, 5000)
    exact = Isotonic(4, pooled=pooled).fit(logits, labels)
    monkeypatch.setattr(isotonic, "EXACT", 0)
    monkeypatch.setattr(isotonic, "TOGETHER", 3)
    counted = Isotonic(4, pooled=pooled).fit(logits, labels)
    apart = (counted(logits).softmax(1) - exact(logits).softmax(1)).abs()
    assert apart.mean() < 2e-3
    assert len(counted.first_) == (1 if pooled else 4)


@pytest.mark.parametrize(("pooled", "key"), [(True, "mir_probs"), (False, "irova_probs")])
def test_the_golden_curves(pooled: bool, key: str) -> None:
    """The official rows are not normalized; here they are."""
    stored, _, logits, labels, after = golden("ets_isotonic")
    found = Isotonic(4, pooled=pooled).fit(logits, labels)(after).softmax(1)
    rows = stored[key] / stored[key].sum(1, keepdims=True)
    close(found, rows, 1e-12)


def test_a_class_that_was_never_right_stays_possible() -> None:
    logits, labels = drawn(2.0)
    labels[labels == 3] = 0
    for pooled in (True, False):
        assert torch.isfinite(Isotonic(4, pooled=pooled).fit(logits, labels)(100 * logits)).all()


def test_one_voxel_gives_a_constant_curve() -> None:
    fitted = build("isotonic", 3, pooled=False).fit(torch.zeros(1, 3), torch.tensor([1]))
    np.testing.assert_allclose(fitted(torch.randn(4, 3)).softmax(1)[:, 1], 1, atol=1e-8)
