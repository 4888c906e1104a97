"""Ensemble temperature scaling: a mixture of scaled, unscaled and uniform probabilities."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor

from medcalib.calibrators.calibrator import LOWEST, Calibrator
from medcalib.calibrators.inverse_temperature import SAMPLE, one_temperature
from medcalib.calibrators.newton import minimize
from medcalib.calibrators.voxels import Voxels

LOW, HIGH = 0.05, 5.0  # the published bounds of T, here of the Brier criterion only


class EnsembleTemperature(Calibrator):
    """p = w_0 softmax(z/T) + w_1 softmax(z) + w_2 / C, the weights 0 or more and of sum 1.

    T is that of temperature scaling, then the weights minimize the same `criterion`: the NLL, or the Brier score
    (whose T is sought in 0.05..5). Both problems in the weights are convex. Every part keeps the arg-max.

    Reference: J. Zhang et al., Mix-n-Match: Ensemble and Compositional Methods for Uncertainty Calibration in Deep
    Learning, ICML 2020. The function `ets_calibrate` of the official code takes the squared error
    whatever loss is asked for; its copy in the LTS repository takes the NLL.
    """

    name = "ensemble_temperature"
    formula = "w0 softmax(z / T) + w1 softmax(z) + w2 / C"
    reference = "J. Zhang et al., ICML 2020"
    keeps_argmax = True

    def __init__(self, num_classes: int, *, criterion: Literal["nll", "brier"] = "nll") -> None:
        super().__init__(num_classes, criterion=criterion)
        self.temperature_: Tensor
        self.weights_: Tensor
        self.declare("temperature_", low=LOWEST)
        self.declare("weights_", (3,), low=0, high=1)

    def map(self, logits: Tensor) -> Tensor:
        """ln p."""
        parts = _parts(logits, self.temperature_, 1)
        return torch.stack([part + log_w for part, log_w in zip(parts, self.weights_.log(), strict=True)]).logsumexp(0)

    def fit_voxels(self, voxels: Voxels) -> None:
        """Find T, then the weights. Raises ValueError where either has no best value."""
        brier = self.options["criterion"] == "brier"
        temperature = _brier_temperature(voxels) if brier else one_temperature(voxels)
        weights = torch.tensor([0.9, 0.05, 0.05], dtype=torch.float64)  # inside, where no probability is 0
        for part in dict.fromkeys((voxels.sample(SAMPLE), voxels)):
            weights = _weights(part, temperature, weights, brier=brier)
        self.temperature_.fill_(temperature)
        self.weights_ = weights


def _parts(logits: Tensor, temperature: Tensor | float, dim: int) -> tuple[Tensor, Tensor, Tensor]:
    """The logarithms of the three mixed probabilities."""
    uniform = torch.full_like(logits, -math.log(logits.shape[dim]))
    return (logits / temperature).log_softmax(dim), logits.log_softmax(dim), uniform


def _brier_temperature(voxels: Voxels) -> float:
    """The T in 0.05..5 of least mean squared error: the best of a list on a sample, then Newton in ln T."""
    low, high = math.log(LOW), math.log(HIGH)
    grid = torch.linspace(low, high, 47, dtype=torch.float64)
    sample = voxels.sample(SAMPLE >> 4)
    x = grid[int(torch.tensor([_brier(sample, float(at))[0] for at in grid]).argmin())][None]
    for part in dict.fromkeys((voxels.sample(SAMPLE), voxels)):
        x = _minimum(lambda at, part=part: _brier(part, float(at)), x, _within(low, high))  # type: ignore[misc]
    return math.exp(float(x))


def _weights(voxels: Voxels, temperature: float, start: Tensor, *, brier: bool) -> Tensor:
    """The best weights: each Newton step ends in the minimum over the simplex of the quadratic around the last."""
    found = _minimum(lambda w: _mixed(voxels, temperature, w, brier=brier), start, _simplex_target)
    found = found.clamp(min=0)
    return found / found.sum()


def _minimum(
    bent: Callable[[Tensor], tuple[float, Tensor, Tensor]],
    start: Tensor,
    target: Callable[[Tensor, Tensor, Tensor], Tensor],
) -> Tensor:
    """Newton with value, gradient, Hessian = bent(x) and steps towards target(x, gradient, Hessian)."""
    curvature = torch.empty(0)

    def objective(x: Tensor) -> tuple[float, Tensor]:
        nonlocal curvature
        value, gradient, curvature = bent(x)
        return value, gradient

    return minimize(objective, lambda x, gradient: x - target(x, gradient, curvature), start)


def _within(low: float, high: float) -> Callable[[Tensor, Tensor, Tensor], Tensor]:
    """The target of a Newton step between bounds."""
    return lambda x, gradient, curvature: (x - gradient / curvature.abs().clamp(min=1e-12)).clamp(low, high)


def _simplex_target(w: Tensor, gradient: Tensor, hessian: Tensor) -> Tensor:
    """The v on the simplex that minimizes gradient (v - w) + (v - w) hessian (v - w) / 2: the best over all faces."""
    hessian = hessian + 1e-12 * hessian.trace() * torch.eye(len(w), dtype=w.dtype)
    best, least = w, 0.0
    for size in range(1, len(w) + 1):
        for face in itertools.combinations(range(len(w)), size):
            at = torch.tensor(face)
            system = torch.ones(size + 1, size + 1, dtype=w.dtype)
            system[:size, :size], system[size, size] = hessian[at][:, at], 0
            right = torch.cat([(hessian @ w - gradient)[at], torch.ones(1, dtype=w.dtype)])
            v = torch.zeros_like(w).index_copy(0, at, torch.linalg.solve(system, right)[:size])
            value = float(gradient @ (v - w) + (v - w) @ hessian @ (v - w) / 2)
            if float(v.min()) >= 0 and value < least:
                best, least = v, value
    return best


def _mixed(voxels: Voxels, temperature: float, weights: Tensor, *, brier: bool) -> tuple[float, Tensor, Tensor]:
    """The criterion of the mixture, mean over voxels, its gradient (3,) and Hessian (3, 3) in the weights."""
    value, gradient, hessian = 0.0, torch.zeros(3, dtype=torch.float64), torch.zeros(3, 3, dtype=torch.float64)
    for chunk in voxels.chunks():
        labels = chunk.labels[None]
        log_parts = _parts(chunk.logits, temperature, 0)
        if brier:
            parts = torch.stack(log_parts).exp_()
            rest = torch.tensordot(weights.to(parts), parts, 1)
            rest.scatter_add_(0, labels, torch.full_like(rest[:1], -1.0))
            value += float(rest.square().sum())
            parts = parts.flatten(1)
            gradient += 2 * (parts @ rest.flatten()).cpu()
            hessian += 2 * (parts @ parts.T).cpu()
        else:
            parts = torch.stack([part.gather(0, labels)[0] for part in log_parts]).exp_()
            mixed = (weights.to(parts) @ parts).clamp_(min=1e-100)
            value -= float(mixed.log().sum())
            parts /= mixed
            gradient -= parts.sum(1).cpu()
            hessian += (parts @ parts.T).cpu()
    return value / voxels.total, gradient / voxels.total, hessian / voxels.total


def _brier(voxels: Voxels, log_t: float) -> tuple[float, Tensor, Tensor]:
    """Mean squared error of softmax(z / T), its slope (1,) and curvature (1,) in ln T."""
    sums = torch.zeros(3, dtype=torch.float64)
    for chunk in voxels.chunks():
        scaled = chunk.logits * math.exp(-log_t)
        p = scaled.softmax(0)
        away = scaled - (p * scaled).sum(0)
        spread = (p * away.square()).sum(0)
        moved = -p * away
        bent = p * (away + away.square() - spread)
        p.scatter_add_(0, chunk.labels[None], torch.full_like(p[:1], -1.0))
        sums += torch.stack([p.square().sum(), 2 * (p * moved).sum(), 2 * (p * bent + moved.square()).sum()]).cpu()
    value, slope, curvature = sums / voxels.total
    return float(value), slope[None], curvature[None]
