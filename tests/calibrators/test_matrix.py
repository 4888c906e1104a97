"""Matrix scaling: convex optimum, nesting, penalties, the official weights."""

from __future__ import annotations

import pytest
import torch
from affine_laws import check_optimal, check_refusals, check_sampled_start, check_stationary
from fits import close, drawn, golden, nll

from medcalib.calibrators import build
from medcalib.calibrators.affine import Matrix, Vector


def test_it_is_stationary_optimal_and_refuses_what_has_no_minimum(monkeypatch: pytest.MonkeyPatch) -> None:
    check_stationary("matrix")
    check_stationary("matrix", off_diagonal=0.02, bias=0.01)
    check_optimal("matrix", off_diagonal=0.01)
    check_refusals("matrix")
    check_sampled_start("matrix", monkeypatch)
    check_sampled_start("matrix", monkeypatch, off_diagonal=1e-3)


def test_it_is_no_worse_than_vector_scaling_and_a_strong_penalty_makes_it_that() -> None:
    logits, labels = drawn(2.0)
    vector, matrix = (kind(4).fit(logits, labels) for kind in (Vector, Matrix))
    assert nll(matrix(logits), labels) <= nll(vector(logits), labels) + 1e-12
    strong = build("matrix", 4, off_diagonal=1e6).fit(logits, labels)
    close(strong(logits).softmax(1), vector(logits).softmax(1), 1e-5)


@pytest.mark.parametrize("key", ["matrix", "matrix_odir"])
def test_the_golden_optimum(key: str) -> None:
    """dirichletcal's penalty is that of the weights after the last row was subtracted: compat="official"."""
    stored, meta, logits, labels, after = golden("dirichlet_vector_matrix")
    penalty = {"off_diagonal": 1e-2, "bias": 1e-2, "compat": "official"} if key == "matrix_odir" else {}
    fitted = build("matrix", 4, **penalty).fit(logits, labels)
    assert nll(fitted(logits), labels) == pytest.approx(meta["nll_cal"][key], abs=1e-8)
    close(fitted(after).softmax(1), stored[f"probs_eval__{key}"], 1e-6)
    theta = torch.cat([fitted.weight_, fitted.bias_[:, None]], 1)
    close(theta - theta[-1:], stored[f"weights__{key}"], 1e-5)
