"""Dirichlet scaling: convex optimum, the official weights, MDCA's objective."""

from __future__ import annotations

import pytest
import torch
from affine_laws import check_optimal, check_refusals, check_sampled_start, check_stationary
from fits import close, drawn, golden, nll

from medcalib.calibrators import build
from medcalib.calibrators.affine import Dirichlet, Piece
from medcalib.calibrators.voxels import Voxels


def test_it_is_stationary_optimal_and_refuses_what_has_no_minimum(monkeypatch: pytest.MonkeyPatch) -> None:
    check_stationary("dirichlet")
    check_stationary("dirichlet", off_diagonal=0.02, bias=0.01)
    check_optimal("dirichlet", off_diagonal=0.01, bias=0.02)
    check_refusals("dirichlet")
    check_sampled_start("dirichlet", monkeypatch)


def test_a_constant_added_to_the_logits_of_a_voxel_changes_nothing() -> None:
    logits, labels = drawn(2.0)
    fitted = Dirichlet(4).fit(logits, labels)
    close(fitted(logits + torch.linspace(-50, 50, len(logits))[:, None]), fitted(logits), 1e-10)


@pytest.mark.parametrize("key", ["dirichlet", "dirichlet_odir_1e-2"])
def test_the_golden_optimum(key: str) -> None:
    stored, meta, logits, labels, after = golden("dirichlet_vector_matrix")
    penalty = {"off_diagonal": 1e-2, "bias": 1e-2, "compat": "official"} if "odir" in key else {}
    fitted = build("dirichlet", 4, **penalty).fit(logits, labels)
    assert nll(fitted(logits), labels) == pytest.approx(meta["nll_cal"][key], abs=1e-8)
    close(fitted(after).softmax(1), stored[f"probs_eval__{key}"], 1e-6)
    theta = torch.cat([fitted.weight_, fitted.bias_[:, None]], 1)
    close(theta - theta[-1:], stored[f"weights__{key}"], 1e-5)


def test_the_golden_objective_of_mdca() -> None:
    """MDCA's code divides the penalties by C (C-1) and by C."""
    stored, _, logits, labels, _ = golden("dirichlet_vector_matrix")
    method = Dirichlet(4, off_diagonal=0.3 / 12, bias=0.7 / 4)
    theta = torch.cat([torch.from_numpy(stored["mdca_W"]), torch.from_numpy(stored["mdca_b"])[:, None]], 1)
    pieces = method._pieces(Voxels.of(logits, labels, 4))
    value, _ = method._objective(list[Piece](pieces), len(labels), theta.double(), method.free())
    assert value == pytest.approx(float(stored["mdca_loss"]), rel=1e-9)
