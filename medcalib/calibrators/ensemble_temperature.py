"""Ensemble temperature scaling: a mixture of scaled, unscaled and uniform probabilities."""

from __future__ import annotations

import math
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from medcalib.calibrators.calibrator import Calibrator
from medcalib.calibrators.inverse_temperature import SAMPLE, one_temperature
from medcalib.calibrators.voxels import Voxels

LOW, HIGH = 0.05, 5.0  # the published bounds of T, here of the Brier criterion only


class EnsembleTemperature(Calibrator):
    """p = w_0 softmax(z/T) + w_1 softmax(z) + w_2 / C, the weights 0 or more and of sum 1.

    T is that of temperature scaling, then the weights minimize the same `criterion`: the NLL, or the Brier score
    (whose T is sought in 0.05..5). Both problems in the weights are convex. Every part keeps the arg-max.

    Reference: J. Zhang et al., Mix-n-Match: Ensemble and Compositional Methods for Uncertainty Calibration in Deep
    Learning, ICML 2020, section 4.2. The function `ets_calibrate` of the official code takes the squared error
    whatever loss is asked for; its copy in the LTS repository takes the NLL.
    """

    name = "ensemble_temperature"
    formula = "w0 softmax(z / T) + w1 softmax(z) + w2 / C"
    reference = "J. Zhang et al., ICML 2020, section 4.2"
    keeps_argmax = True

    def __init__(self, num_classes: int, *, criterion: Literal["nll", "brier"] = "nll") -> None:
        super().__init__(num_classes, criterion=criterion)
        self.temperature_: Tensor
        self.weights_: Tensor
        self.declare("temperature_")
        self.declare("weights_", (3,))

    def map(self, logits: Tensor) -> Tensor:
        """ln p."""
        parts = _parts(logits, self.temperature_, 1)
        return torch.stack([part + log_w for part, log_w in zip(parts, self.weights_.log(), strict=True)]).logsumexp(0)

    def fit_voxels(self, voxels: Voxels) -> None:
        """Find T, then the weights. Raises ValueError where either has no best value."""
        brier = self.options["criterion"] == "brier"
        temperature = _brier_temperature(voxels) if brier else one_temperature(voxels)
        weights = np.array([1.0, 0.0, 0.0])
        for part in dict.fromkeys((voxels.sample(SAMPLE), voxels)):
            weights = _weights(part, temperature, weights, brier=brier)
        self.temperature_.fill_(temperature)
        self.weights_ = torch.from_numpy(weights)


def _parts(logits: Tensor, temperature: Tensor | float, dim: int) -> tuple[Tensor, Tensor, Tensor]:
    """The logarithms of the three mixed probabilities."""
    uniform = torch.full_like(logits, -math.log(logits.shape[dim]))
    return (logits / temperature).log_softmax(dim), logits.log_softmax(dim), uniform


def _brier_temperature(voxels: Voxels) -> float:
    """The T in 0.05..5 of least mean squared error."""
    from scipy.optimize import minimize_scalar

    def error(log_t: float) -> float:
        return _mixed(voxels, math.exp(log_t), np.array([1.0, 0.0, 0.0]), brier=True)[0]

    bounds = (math.log(LOW), math.log(HIGH))
    return math.exp(minimize_scalar(error, bounds=bounds, method="bounded", options={"xatol": 1e-10}).x)


def _weights(voxels: Voxels, temperature: float, start: NDArray[np.float64], *, brier: bool) -> NDArray[np.float64]:
    """The best weights, by sequential quadratic programming on the simplex."""
    from scipy.optimize import minimize

    found = minimize(
        lambda w: _mixed(voxels, temperature, w, brier=brier),
        start,
        jac=True,
        method="SLSQP",
        bounds=[(0, 1)] * 3,
        constraints=[{"type": "eq", "fun": lambda w: w.sum() - 1, "jac": np.ones_like}],
        options={"ftol": 1e-14, "maxiter": 200},
    )
    if not found.success:
        raise ValueError(f"the weights of the ensemble were not found: {found.message}")
    weights: NDArray[np.float64] = found.x.clip(0)
    weights /= weights.sum()
    return weights


def _mixed(
    voxels: Voxels, temperature: float, weights: NDArray[np.float64], *, brier: bool
) -> tuple[float, NDArray[np.float64]]:
    """The criterion of the mixture, mean over voxels, and its gradient (3,) in the weights."""
    value, gradient = 0.0, np.zeros(3)
    w = torch.from_numpy(weights)
    for chunk in voxels.chunks():
        labels = chunk.labels[None]
        log_parts = _parts(chunk.logits, temperature, 0)
        if brier:
            parts = torch.stack(log_parts).exp_()
            rest = torch.tensordot(w.to(parts), parts, 1)
            rest.scatter_add_(0, labels, torch.full_like(rest[:1], -1.0))
            value += float(rest.square().sum())
            gradient += 2 * (parts * rest).sum((1, 2)).cpu().numpy()
        else:
            parts = torch.stack([part.gather(0, labels)[0] for part in log_parts]).exp_()
            mixed = (w.to(parts) @ parts).clamp_(min=torch.finfo(torch.float64).tiny)
            value -= float(mixed.log().sum())
            gradient -= (parts / mixed).sum(1).cpu().numpy()
    return value / voxels.total, gradient / voxels.total
