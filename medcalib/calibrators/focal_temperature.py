"""Focal temperature scaling: temperature scaling, then the focal calibration map."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from medcalib.calibrators.calibrator import LOWEST, Calibrator
from medcalib.calibrators.grid import ECE_VOXELS, Criterion, by_grid, steps
from medcalib.calibrators.inverse_temperature import start_temperature
from medcalib.calibrators.newton import SAMPLE, minimize
from medcalib.calibrators.voxels import Voxels, predicted

GAMMAS = (0.0, -1.0, -0.75, -0.5, -0.25, 0.25, 0.5, 0.75, 1.0, 3.0, 5.0)  # the official list, the identity first
GRID = steps(0.05, 100)
LOW_GAMMA, HIGH_GAMMA = -1.0, 10.0
START_VOXELS = 1 << 14
_SMALL = 1e-3  # of 1 - u: below, four terms of the series of 1 + u ln u / (1-u) are exact to float64
_LOWEST = -0.999  # at -1 itself the derivative in gamma is infinite
_LOG_RANGE = math.log(1e4)


def focal_log_map(log_p: Tensor, gamma: float | Tensor, dim: int = 1) -> Tensor:
    """ln v of probabilities u along `dim`, unnormalized: their softmax is the focal calibration map of u.

    v = u / [(1-u)^g - g (1-u)^(g-1) u ln u] = -1/l'(u) of the focal loss l(u) = -(1-u)^g ln u, so that

        ln v = ln u - g ln(1-u) - ln(1 + g r),   r = -u ln u / (1-u) in [0, 1],

    with ln(1-u) of the largest u from the others, so that confidences that round to 1 keep their order and size.
    `gamma` >= -1; 0 is the identity. Shapes: log_p of any shape, normalized along `dim`; gamma a number, or of any
    shape that broadcasts.

    Reference: V. Komisarenko and M. Kull, Improving Calibration by Relating Focal Loss, Temperature Scaling, and
    Properness, arXiv 2408.11598; the official code clamps u at 1 - 1e-12, which is 1 in float32.
    """
    rest = _rest(log_p, dim)
    less, _ = _bends(log_p, rest.log.exp())
    factor = 1 + gamma - gamma * less
    lost = factor <= 0  # gamma = -1 and 1 - u below the smallest number: there 1 - r = (1 - u) / 2
    log_factor = torch.where(lost, rest.log - math.log(2), factor.masked_fill(lost, 1.0).log())
    return log_p - gamma * rest.log - log_factor


class _Rest(NamedTuple):
    """ln(1-u), and which u is the largest."""

    log: Tensor
    is_top: Tensor


def _rest(log_p: Tensor, dim: int) -> _Rest:
    top = predicted(log_p, dim).unsqueeze(dim)
    is_top = torch.zeros_like(log_p, dtype=torch.bool).scatter(dim, top, value=True)
    others = log_p.masked_fill(is_top, -math.inf).logsumexp(dim, keepdim=True)
    return _Rest(torch.where(is_top, others, torch.log1p(-log_p.masked_fill(is_top, -1.0).exp())), is_top)


def _bends(log_p: Tensor, rest: Tensor) -> tuple[Tensor, Tensor]:
    """1 - r = 1 + u ln u / (1-u), and -(1 + ln u / (1-u)), at rest = 1 - u."""
    near = rest < _SMALL
    per = log_p / rest.masked_fill(near, 1.0)
    less = torch.where(near, rest * (1 / 2 + rest * (1 / 6 + rest * (1 / 12 + rest / 20))), 1 + log_p.exp() * per)
    return less, torch.where(near, rest * (1 / 2 + rest * (1 / 3 + rest * (1 / 4 + rest / 5))), -1 - per)


class FocalTemperature(Calibrator):
    """p = v / sum v with v = u / [(1-u)^g - g (1-u)^(g-1) u ln u] and u = softmax(z / T).

    g > 0 raises confidence, g < 0 lowers it, g = 0 is temperature scaling. T and g are chosen together by
    `criterion`: the NLL, or the top-label ECE of 15 bins of equal mass (on at most 2^18 voxels). `search="joint"`
    ends in the minimum itself; `"grid"` takes the best of the official T = 0.05, ..., 5.00 and g = -1, ..., 5.
    `gamma` fixes g (the joint search takes -0.999 for less, where its derivative ends). The arg-max stays.

    Reference: V. Komisarenko and M. Kull, arXiv 2408.11598. The official selection cannot run as published, and
    replaces rows that overflow by numbers that do not sum to 1; here everything is in log space (see
    `focal_log_map`).
    """

    name = "focal_temperature"
    formula = "v / sum(v), v = u / ((1-u)^g - g (1-u)^(g-1) u ln u), u = softmax(z / T)"
    reference = "V. Komisarenko and M. Kull, arXiv 2408.11598"
    keeps_argmax = True

    def __init__(
        self,
        num_classes: int,
        *,
        gamma: float | None = None,
        search: Literal["joint", "grid"] = "joint",
        criterion: Literal["nll", "ece"] = "nll",
    ) -> None:
        super().__init__(num_classes, gamma=gamma, search=search, criterion=criterion)
        if gamma is not None and not LOW_GAMMA <= gamma <= HIGH_GAMMA:
            raise ValueError(f"gamma must lie in {LOW_GAMMA:g}..{HIGH_GAMMA:g}, got {gamma}")
        self.temperature_: Tensor
        self.gamma_: Tensor
        self.declare("temperature_", low=LOWEST)
        self.declare("gamma_", low=LOW_GAMMA, high=HIGH_GAMMA)

    def map(self, logits: Tensor) -> Tensor:
        """ln v of softmax(z / T), normalized."""
        return focal_log_map((logits / self.temperature_).log_softmax(1), self.gamma_).log_softmax(1)

    def fit_voxels(self, voxels: Voxels) -> None:
        """Find T and g. Raises ValueError where there is no best temperature."""
        criterion = self.options["criterion"]
        if self.options["search"] == "joint" and criterion == "nll":
            temperature, gamma = self._by_newton(voxels)
        else:
            temperature, gamma = self._by_grid(voxels, GRID, criterion)
            if self.options["search"] == "joint":
                temperature, gamma = self._by_simplex(voxels, (temperature, gamma))
        self.temperature_.fill_(temperature)
        self.gamma_.fill_(gamma)

    def _by_grid(self, voxels: Voxels, grid: Sequence[float], criterion: Criterion) -> tuple[float, float]:
        """The best pair of the lists; of equals the first."""
        fixed: float | None = self.options["gamma"]
        best = (math.inf, math.nan, math.nan)
        for gamma in GAMMAS if fixed is None else (fixed,):
            values = grid_scores(voxels, gamma, grid, criterion)
            at = int(values.argmin())
            best = min(best, (float(values[at]), grid[at], gamma), key=lambda found: found[0])
        return best[1:]

    def _by_newton(self, voxels: Voxels) -> tuple[float, float]:
        """The minimum of the NLL in (ln T, g): of a sample first, then of all."""
        sample = voxels.sample(SAMPLE)
        x = self._start(sample)
        for part in dict.fromkeys((sample, voxels)):
            x = self._minimum(part, x)
        if abs(float(x[0])) > 0.999 * _LOG_RANGE:
            raise ValueError("the NLL has no minimum over temperatures of 1e-4 to 1e4; fit on more, or harder, cases")
        return float(x[0].exp()), float(x[1])

    def _start(self, voxels: Voxels) -> Tensor:
        """(ln T, g): that of temperature scaling, or a better pair around it."""
        fixed: float | None = self.options["gamma"]
        plain = start_temperature(voxels)
        around = [plain * float(share) for share in np.geomspace(0.3, 5, 15)]
        found = self._by_grid(voxels.sample(START_VOXELS), around, "nll")
        pairs = [(plain, 0.0 if fixed is None else fixed), found]
        starts = torch.tensor([[math.log(t), max(g, _LOWEST)] for t, g in pairs], dtype=torch.float64)
        values = [nll_gradient(voxels, x)[0] for x in starts]
        return starts[int(np.argmin(values))]

    def _minimum(self, voxels: Voxels, start: Tensor) -> Tensor:
        sample = voxels.sample(SAMPLE)
        low, high = torch.tensor([[-_LOG_RANGE, _LOWEST], [_LOG_RANGE, HIGH_GAMMA]], dtype=torch.float64)
        if self.options["gamma"] is not None:
            low[1] = high[1] = start[1]

        def direction(x: Tensor, gradient: Tensor) -> Tensor:
            free = ((x > low) | (gradient < 0)) & ((x < high) | (gradient > 0))
            step = torch.zeros(2, dtype=torch.float64)
            if bool(free.any()):
                step[free] = torch.linalg.solve(_curvature(sample, x)[free][:, free], gradient[free])
            return step if float(step @ gradient) >= 0 else gradient * free

        return minimize(lambda x: nll_gradient(voxels, x), direction, start, lambda x: x.clamp(low, high))

    def _by_simplex(self, voxels: Voxels, start: tuple[float, float]) -> tuple[float, float]:
        """The pair of least ECE around `start`: the ECE has kinks, so no derivative is used."""
        from scipy.optimize import minimize as search

        fixed, sample = self.options["gamma"], voxels.sample(ECE_VOXELS)

        def error(x: Any) -> float:
            gamma = float(np.clip(x[1], LOW_GAMMA, HIGH_GAMMA)) if fixed is None else fixed
            return float(grid_scores(sample, gamma, [math.exp(x[0])], "ece")[0])

        first = np.array([math.log(start[0]), start[1]])
        steps_ = np.array([[0, 0], [0.05, 0], [0, 0.1]])
        found = search(error, first, method="Nelder-Mead", options={"initial_simplex": first + steps_, "maxfev": 200})
        gamma = float(np.clip(found.x[1], LOW_GAMMA, HIGH_GAMMA)) if fixed is None else fixed
        return math.exp(found.x[0]), gamma


def grid_scores(voxels: Voxels, gamma: float, grid: Sequence[float], criterion: Criterion) -> NDArray[np.float64]:
    """`criterion` (NLL or equal-mass ECE) at each temperature of the `grid`, for one `gamma`."""

    def log_probs(logits: Tensor, temperature: float) -> Tensor:
        return focal_log_map((logits / temperature).log_softmax(0), gamma, 0).log_softmax(0)

    return by_grid(voxels, log_probs, grid, criterion, mass=True)


def nll_gradient(voxels: Voxels, x: Tensor) -> tuple[float, Tensor]:
    """Mean NLL in nats over the voxels and its gradient at x (2,) = (ln T, g), g > -1."""
    value, gradient = 0.0, torch.zeros(2, dtype=torch.float64)
    log_t, gamma = x.tolist()
    for chunk in voxels.chunks():
        log_p = (chunk.logits * math.exp(-log_t)).log_softmax(0)
        log_v, *slopes = _slopes(log_p, gamma)
        log_v = log_v.log_softmax(0)
        value -= float(log_v.gather(0, chunk.labels[None]).sum())
        missed = log_v.exp_()
        missed.scatter_add_(0, chunk.labels[None], torch.full_like(missed[:1], -1.0))
        gradient += torch.stack([(missed * slope).sum() for slope in slopes]).cpu()
    return value / voxels.total, gradient / voxels.total


def _slopes(log_p: Tensor, gamma: float) -> tuple[Tensor, Tensor, Tensor]:
    """ln v of log_p (C, n), and its derivatives in ln T and in g.

    With h = d ln u / d ln T the first is h + g u h/(1-u) - g r'(ln u) h / (1 + g r), r' = -(u/(1-u)) (1 + ln u/(1-u)).
    For the largest u the product u h/(1-u) is a mean over the others, so that it stays finite where u rounds to 1.
    """
    rest = _rest(log_p, 0)
    left = rest.log.exp()
    less, bend = _bends(log_p, left)
    factor = 1 + gamma - gamma * less
    behind = log_p - log_p.amax(0)
    u = log_p.exp()
    moved = (u * behind).sum(0) - behind
    among = (
        behind * (log_p - rest.log.masked_fill(~rest.is_top, 0).sum(0)).masked_fill_(rest.is_top, -math.inf).exp_()
    ).sum(0)
    steep = u * torch.where(rest.is_top, among, moved / left.masked_fill(rest.is_top, 1.0))
    log_v = log_p - gamma * rest.log - factor.log()
    return log_v, moved + gamma * steep * (1 - bend / factor), -rest.log - (1 - less) / factor


def _curvature(voxels: Voxels, x: Tensor, step: float = 1e-5) -> Tensor:
    """Second derivatives (2, 2) by central differences of the gradient, made positive where the NLL is not convex."""
    moves = step * torch.eye(2, dtype=torch.float64)
    rows = [(nll_gradient(voxels, x + move)[1] - nll_gradient(voxels, x - move)[1]) / (2 * step) for move in moves]
    values, vectors = torch.linalg.eigh((torch.stack(rows) + torch.stack(rows).T) / 2)
    bounded: Tensor = vectors @ torch.diag(values.abs().clamp(min=1e-8)) @ vectors.T
    return bounded
