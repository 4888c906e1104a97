"""Vector scaling: convex optimum, nesting, the official weights."""

from __future__ import annotations

import pytest
import torch
from affine_laws import check_optimal, check_refusals, check_sampled_start, check_stationary
from fits import close, drawn, golden, nll

from medcalib.calibrators.affine import Vector
from medcalib.calibrators.temperature import Temperature


def test_it_is_stationary_optimal_and_refuses_what_has_no_minimum(monkeypatch: pytest.MonkeyPatch) -> None:
    check_stationary("vector")
    check_optimal("vector", bias=0.03)
    check_refusals("vector")
    check_sampled_start("vector", monkeypatch)


def test_only_the_diagonal_moves_and_the_nll_is_no_worse_than_that_of_one_temperature() -> None:
    logits, labels = drawn(2.0)
    fitted = Vector(4).fit(logits, labels)
    assert torch.equal(fitted.weight_, torch.diag(fitted.weight_.diagonal()))
    assert nll(fitted(logits), labels) <= nll(Temperature(4).fit(logits, labels)(logits), labels) + 1e-12


def test_the_scales_and_offsets_that_made_the_labels_are_found() -> None:
    logits, _ = drawn(1.0, 60000)
    w, b = torch.tensor([0.5, 1.0, 0.7, 0.8]).double(), torch.tensor([0.5, -0.5, 1.0, -1.0]).double()
    probs = (logits * w + b).softmax(1)
    labels = torch.multinomial(probs, 1, generator=torch.Generator().manual_seed(1))[:, 0]
    fitted = Vector(4).fit(logits, labels)
    close(fitted.weight_.diagonal(), w, 0.04)  # standard errors are near 0.01
    close(fitted.bias_, b, 0.06)


def test_the_golden_optimum() -> None:
    stored, meta, logits, labels, after = golden("dirichlet_vector_matrix")
    fitted = Vector(4).fit(logits, labels)
    assert nll(fitted(logits), labels) == pytest.approx(meta["nll_cal"]["vector"], abs=1e-13)
    close(fitted(after).softmax(1), stored["probs_eval__vector"], 1e-8)
    theta = torch.cat([fitted.weight_, fitted.bias_[:, None]], 1)
    close(theta - theta[-1:], stored["weights__vector"], 1e-7)
