"""Ensemble temperature scaling: weights on the simplex, optimum, the official values."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from fits import close, drawn, golden, nll
from scipy.optimize import minimize

from medcalib.calibrators import ensemble_temperature
from medcalib.calibrators.ensemble_temperature import EnsembleTemperature
from medcalib.calibrators.temperature import Temperature


@pytest.mark.parametrize(("criterion", "key"), [("nll", "ce"), ("brier", "mse")])
def test_the_golden_weights(criterion: str, key: str) -> None:
    """The official T comes from L-BFGS-B, which stops some 1e-6 before the minimum."""
    stored, _, logits, labels, after = golden("ets_isotonic")
    fitted = EnsembleTemperature(4, criterion=criterion).fit(logits, labels)
    close(fitted.temperature_[None], stored[f"t_{key}"], 1e-5)
    close(fitted.weights_, stored[f"w_{key}"], 1e-5)
    close(fitted(after).softmax(1), stored[f"ets_probs_{key}"], 3e-6)
    if criterion == "brier":  # what `ets_calibrate` returns whatever loss it is asked for
        close(fitted(after).softmax(1), stored["ets_calibrate_official"], 3e-6)


@pytest.mark.parametrize("criterion", ["nll", "brier"])
def test_the_weights_are_those_of_another_optimizer(criterion: str) -> None:
    logits, labels = drawn(2.0, 3000)
    labels[:600] = torch.randint(0, 4, (600,), generator=torch.Generator().manual_seed(1))
    fitted = EnsembleTemperature(4, criterion=criterion).fit(logits, labels)
    parts = torch.stack([(logits / fitted.temperature_).softmax(1), logits.softmax(1), torch.full_like(logits, 0.25)])

    def lost(w: np.ndarray) -> float:
        w = np.abs(w) / np.abs(w).sum()
        p = torch.tensordot(torch.from_numpy(w), parts, 1)
        onehot = torch.nn.functional.one_hot(labels, 4)
        return float((p - onehot).square().sum(1).mean()) if criterion == "brier" else nll(p.log(), labels)

    found = minimize(lost, np.ones(3) / 3, method="Nelder-Mead", options={"xatol": 1e-9, "fatol": 1e-14})
    assert lost(fitted.weights_.numpy()) <= found.fun + 1e-12
    assert fitted.weights_.sum().item() == pytest.approx(1, abs=1e-15)
    assert (fitted.weights_ >= 0).all()
    assert fitted.weights_[2] > 0.1  # a fifth of the labels is noise


def test_it_is_the_mixture_and_no_worse_than_temperature_scaling() -> None:
    logits, labels = drawn(2.0)
    fitted = EnsembleTemperature(4).fit(logits, labels)
    w = fitted.weights_
    mixture = w[0] * (logits / fitted.temperature_).softmax(1) + w[1] * logits.softmax(1) + w[2] / 4
    close(fitted(logits).exp(), mixture, 1e-14)
    assert nll(fitted(logits), labels) <= nll(Temperature(4).fit(logits, labels)(logits), labels) + 1e-12


def test_the_brier_temperature_is_stationary() -> None:
    logits, labels = drawn(2.0)
    log_t = EnsembleTemperature(4, criterion="brier").fit(logits, labels).temperature_.log().requires_grad_()
    onehot = torch.nn.functional.one_hot(labels, 4)
    error = ((logits / log_t.exp()).softmax(1) - onehot).square().sum(1).mean()
    assert abs(torch.autograd.grad(error, log_t)[0].item()) < 1e-9


def test_where_both_parts_are_one_the_fit_still_ends() -> None:
    """Labels of a known T = 1 after a first fit: softmax(z / T) and softmax(z) agree, the weights do not matter."""
    logits, labels = drawn(2.0)
    again = Temperature(4).fit(logits, labels)(logits)
    fitted = EnsembleTemperature(4).fit(again, labels)
    assert fitted.temperature_.item() == pytest.approx(1, abs=1e-9)
    assert nll(fitted(again), labels) <= nll(again, labels) + 1e-12


@pytest.mark.parametrize("criterion", ["nll", "brier"])
def test_a_sampled_start_ends_in_the_same_minimum(criterion: str, monkeypatch: pytest.MonkeyPatch) -> None:
    logits, labels = drawn(2.0, 20000)
    whole = EnsembleTemperature(4, criterion=criterion).fit(logits, labels)
    monkeypatch.setattr(ensemble_temperature, "SAMPLE", 4000)
    sampled = EnsembleTemperature(4, criterion=criterion).fit(logits, labels)
    close(sampled.temperature_, whole.temperature_, 1e-7)
    close(sampled(logits).exp(), whole(logits).exp(), 1e-6)
