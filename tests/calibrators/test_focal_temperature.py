"""Focal temperature scaling: the map, its derivative, its optimum, the official values."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from fits import close, drawn, golden, nll

from medcalib.calibrators import build, focal_temperature
from medcalib.calibrators.focal_temperature import (
    GAMMAS,
    GRID,
    FocalTemperature,
    focal_log_map,
    grid_scores,
    nll_gradient,
)
from medcalib.calibrators.temperature import Temperature
from medcalib.calibrators.voxels import Voxels


@pytest.mark.parametrize("gamma", [-1.0, -0.5, 0.0, 1.0, 3.0])
def test_the_map_by_hand(gamma: float) -> None:
    u = torch.tensor([[0.7, 0.2, 0.1]], dtype=torch.float64)
    v = u / ((1 - u) ** gamma - gamma * (1 - u) ** (gamma - 1) * u * u.log())
    close(focal_log_map(u.log(), gamma).exp(), v, 1e-14)


@pytest.mark.parametrize("gamma", [-1.0, -0.999, -0.5, 2.0, 10.0])
def test_where_confidence_rounds_to_one_the_map_keeps_its_limit(gamma: float) -> None:
    """1 - u = e: ln v_top -> -g ln e - ln(1 + g - g e/2), ln v_other = ln u - ln(1 - g u ln u) nearly."""
    for margin in (30.0, 700.0, 4000.0):
        log_p = torch.tensor([[margin, 0.0, -5.0]], dtype=torch.float64).log_softmax(1)
        log_e = torch.tensor([0.0, -5.0], dtype=torch.float64).logsumexp(0) - margin
        found = focal_log_map(log_p, gamma)
        assert torch.isfinite(found).all()
        bracket = math.log(1 + gamma) if gamma > -1 else float(log_e) - math.log(2)
        assert found[0, 0].item() == pytest.approx(-gamma * float(log_e) - bracket, rel=1e-9, abs=1e-9)
        assert found.argmax(1).item() == 0


@pytest.mark.parametrize("scale", [1.0, 30.0, 1000.0])
@pytest.mark.parametrize("gamma", [-0.9, 0.0, 2.5])
def test_the_gradient_is_the_derivative_of_the_map(scale: float, gamma: float) -> None:
    logits, labels = drawn(2.0, 500)
    x = torch.tensor([0.3, gamma], dtype=torch.float64, requires_grad=True)
    log_v = focal_log_map((scale * logits * (-x[0]).exp()).log_softmax(1), x[1]).log_softmax(1)
    lost = -log_v.gather(1, labels[:, None]).mean()
    (expected,) = torch.autograd.grad(lost, x)
    value, found = nll_gradient(Voxels.of(scale * logits, labels, 4), x.detach())
    assert value == pytest.approx(lost.item(), rel=1e-12)
    torch.testing.assert_close(found, expected, rtol=1e-11, atol=1e-11)


def test_the_fit_is_stationary_and_no_worse_than_temperature_scaling() -> None:
    logits, labels = drawn(2.0)
    probs = focal_log_map((logits / 1.5).log_softmax(1), -0.7).softmax(1)
    labels = torch.multinomial(probs, 1, generator=torch.Generator().manual_seed(3))[:, 0]
    fitted = FocalTemperature(4).fit(logits, labels)
    at = torch.stack([fitted.temperature_.log(), fitted.gamma_])
    assert nll_gradient(Voxels.of(logits, labels, 4), at)[1].abs().max() < 1e-8
    assert nll(fitted(logits), labels) < nll(Temperature(4).fit(logits, labels)(logits), labels) - 1e-4


def test_without_gamma_it_is_temperature_scaling() -> None:
    logits, labels = drawn(3.0)
    fitted = build("focal_temperature", 4, gamma=0.0).fit(logits, labels)
    plain = Temperature(4).fit(logits, labels)
    assert fitted.temperature_.item() == pytest.approx(plain.temperature_.item(), rel=1e-8)
    close(fitted(logits).softmax(1), plain(logits).softmax(1), 1e-8)


def test_the_temperature_scales_with_the_logits() -> None:
    logits, labels = drawn(2.0)
    one = FocalTemperature(4).fit(logits, labels)
    for scale in (200.0,):
        other = FocalTemperature(4).fit(logits * scale, labels)
        assert other.temperature_.item() == pytest.approx(scale * one.temperature_.item(), rel=1e-6)
        assert other.gamma_.item() == pytest.approx(one.gamma_.item(), abs=1e-6)


def test_a_sampled_start_ends_in_the_same_minimum(monkeypatch: pytest.MonkeyPatch) -> None:
    logits, labels = drawn(2.0)
    whole = FocalTemperature(4).fit(logits, labels)
    monkeypatch.setattr(focal_temperature, "SAMPLE", 800)
    sampled = FocalTemperature(4).fit(logits, labels)
    close(sampled.temperature_, whole.temperature_, 1e-7)
    close(sampled.gamma_, whole.gamma_, 1e-7)


@pytest.mark.parametrize("gamma", GAMMAS)
def test_the_golden_grids(gamma: float) -> None:
    """The official clamp of u at 1 - 1e-12 acts below T of about 0.75; scores are compared from T = 1 on."""
    stored, meta, logits, labels, _ = golden("focal_temperature_scaling")
    voxels = Voxels.of(logits, labels, 4)
    for criterion, key in (("nll", "nll"), ("ece", "adaece")):
        scores = grid_scores(voxels, gamma, GRID, criterion)
        np.testing.assert_allclose(scores[19:], stored[f"{key}__g{gamma:g}"][19:], rtol=0, atol=1e-9)
        best = meta["best_T"][f"{gamma:.2f}".rstrip("0") if gamma % 1 else f"{gamma:.1f}"]
        assert GRID[int(scores.argmin())] == best["ce" if criterion == "nll" else "ece"]


def test_the_golden_probabilities() -> None:
    stored, _, _, _, after = golden("focal_temperature_scaling")
    keys = [key for key in stored.files if key.startswith("probs__")]
    assert len(keys) == 10
    for key in keys:
        gamma, temperature = key.removeprefix("probs__g").split("_T")
        close(focal_log_map((after / float(temperature)).log_softmax(1), float(gamma)).softmax(1), stored[key], 1e-12)
    u = torch.from_numpy(stored["q2"])
    pairs = torch.stack([u.log(), (1 - u).log()], 1).clamp(min=-700)
    close(focal_log_map(pairs, 3.0).softmax(1)[:, 0], stored["map2_g3"], 1e-14)
    big = torch.from_numpy(stored["big_logits"])
    for gamma in (3, 5):  # where the official code does not overflow
        close(focal_log_map(big.log_softmax(1), gamma).softmax(1)[2:], stored[f"big_probs_g{gamma}"][2:], 1e-14)


def test_searches_of_the_ece_and_of_the_grid() -> None:
    _, meta, logits, labels, _ = golden("focal_temperature_scaling")
    by_grid = build("focal_temperature", 4, search="grid", criterion="ece").fit(logits, labels)
    assert by_grid.gamma_.item() == -0.25
    assert by_grid.temperature_.item() == pytest.approx(meta["best_T"]["-0.25"]["ece"])
    joint = build("focal_temperature", 4, criterion="ece").fit(logits, labels)
    voxels = Voxels.of(logits, labels, 4)
    ece = [grid_scores(voxels, c.gamma_.item(), [c.temperature_.item()], "ece")[0] for c in (joint, by_grid)]
    assert ece[0] <= ece[1]


def test_gamma_out_of_range_is_refused() -> None:
    for gamma in (-1.5, 11.0):
        with pytest.raises(ValueError, match="gamma must lie in"):
            build("focal_temperature", 4, gamma=gamma)
