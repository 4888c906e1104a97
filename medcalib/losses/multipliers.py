"""Multipliers of an augmented Lagrangian: penalty functions, and the state that steps between epochs."""

from __future__ import annotations

import logging
from typing import Literal

import torch
from torch import Tensor

from medcalib.losses.state import Float64Module, RunningSums

Penalty = Literal["phr", "p2", "p3"]
log = logging.getLogger(__name__)


def penalty_value(h: Tensor, lam: Tensor, rho: Tensor, penalty: Penalty) -> Tensor:
    """P(h; lam, rho), elementwise; P(0) = 0 and h > 0 is a violated constraint.

    phr: lam h + rho h^2 / 2 where lam + rho h >= 0, else -lam^2 / (2 rho);
    p2:  lam h + lam rho h^2 + rho^2 h^3 / 6 where h >= 0, else lam h / (1 - rho h);  p3: p2 without the cubic term.

    Source: the code of CALS (arXiv 2211.15088, eq. 9 and its appendix).
    """
    if penalty == "phr":
        # lam h + rho h^2 / 2, not ((lam + rho h)^2 - lam^2) / (2 rho), which cancels for large lam
        return torch.where(lam + rho * h >= 0, h * (lam + rho * h / 2), -lam.square() / (2 * rho))
    below, above = h.clamp(max=0), h.clamp(min=0)
    cubic = rho.square() * above.pow(3) / 6 if penalty == "p2" else 0.0
    return torch.where(h >= 0, lam * above + lam * rho * above.square() + cubic, lam * below / (1 - rho * below))


def penalty_slope(h: Tensor, lam: Tensor, rho: Tensor, penalty: Penalty) -> Tensor:
    """dP/dh of `penalty_value`, elementwise in h, lam and rho: what a multiplier becomes next; never negative.

    phr: max(lam + rho h, 0);  p2: lam + 2 lam rho h + rho^2 h^2 / 2 where h >= 0, else lam / (1 - rho h)^2;  p3: p2
    without the square.
    """
    if penalty == "phr":
        return (lam + rho * h).clamp(min=0)
    below, above = h.clamp(max=0), h.clamp(min=0)
    square = rho.square() * above.square() / 2 if penalty == "p2" else 0.0
    return torch.where(h >= 0, lam + 2 * lam * rho * above + square, lam / (1 - rho * below).square())


class Multipliers(Float64Module):
    """`size` multipliers lam and coefficients rho; float64 buffers, saved and restored with the objective.

    An update sets lam to the mean slope P'(h) since the last one, within [lam_min, lam_max]. With rho_step > 0,
    each rho_step-th update multiplies rho by `growth`, up to rho_max, where the mean violation exceeds
    `tolerance` times that of the update before (counted from 0). Sums are added up and divided once, after the
    reduction over ranks, so that unequal ranks or batches equal one process.
    """

    lam: Tensor
    rho: Tensor
    previous: Tensor
    updates: Tensor

    def __init__(
        self,
        size: int,
        *,
        penalty: Penalty,
        rho: float,
        rho_max: float,
        rho_step: int,
        growth: float,
        tolerance: float,
        lam_min: float,
        lam_max: float,
    ) -> None:
        super().__init__()
        _check(rho > 0, "rho must be positive", rho)
        _check(rho_max >= rho, f"rho_max must be at least rho ({rho})", rho_max)
        _check(rho_step >= 0, "rho_step must not be negative (0 keeps rho)", rho_step)
        _check(growth >= 1, "growth must be at least 1", growth)
        _check(tolerance > 0, "tolerance must be positive", tolerance)
        _check(lam_min > 0, "lam_min must be positive", lam_min)
        _check(lam_max >= lam_min, f"lam_max must be at least lam_min ({lam_min})", lam_max)
        self.penalty, self.rho_min, self.rho_max, self.rho_step = penalty, rho, rho_max, rho_step
        self.growth, self.tolerance, self.lam_min, self.lam_max = growth, tolerance, lam_min, lam_max
        self.register_buffer("lam", torch.full((size,), lam_min, dtype=torch.float64))
        self.register_buffer("rho", torch.full((size,), rho, dtype=torch.float64))
        self.register_buffer("previous", torch.zeros(size, dtype=torch.float64))
        self.register_buffer("updates", torch.zeros((), dtype=torch.int64))
        self.sums = RunningSums(slope=size, violation=size)

    def value(self, h: Tensor, lam: Tensor, rho: Tensor) -> Tensor:
        """`penalty_value` with the chosen penalty, elementwise in h, lam and rho."""
        return penalty_value(h, lam, rho, self.penalty)

    def slope(self, h: Tensor, lam: Tensor, rho: Tensor) -> Tensor:
        """`penalty_slope` with the chosen penalty, within the limits of lam (per voxel, as in the official code).

        Elementwise in h, lam and rho.
        """
        return penalty_slope(h, lam, rho, self.penalty).clamp(self.lam_min, self.lam_max)

    def add(self, slopes: Tensor, violations: Tensor, voxels: Tensor) -> None:
        """Add sums over so many `voxels` (1,): slopes (size,) and violations (size,)."""
        self.sums.add(voxels, slope=slopes, violation=violations)

    def update(self, share: Tensor | None = None) -> None:
        """One step of lam and rho; nothing changes where nothing was observed. A collective over ranks.

        `share` (size,): factor of each new lam; a multiplier whose factor is 0 is kept as it is.
        """
        totals = self.sums.drain()
        if totals is None or not finite(totals):
            return
        slope, violation = (totals[name] / totals["voxels"] for name in ("slope", "violation"))
        self.updates += 1
        share = torch.ones_like(slope) if share is None else share
        self.lam.copy_(torch.where(share > 0, (share * slope).clamp(self.lam_min, self.lam_max), self.lam))
        if self.rho_step == 0:
            return
        if self.updates > 1 and self.updates % self.rho_step == 0:
            grown = (self.growth * self.rho).clamp(self.rho_min, self.rho_max)
            self.rho.copy_(torch.where(violation > self.tolerance * self.previous.clamp_min(0), grown, self.rho))
        self.previous.copy_(violation)


def finite(totals: dict[str, Tensor]) -> bool:
    """Whether a step can be taken from these sums, totals (size,) by name; a warning of the log says where not."""
    if all(bool(total.isfinite().all()) for total in totals.values()):
        return True
    log.warning(
        "the multipliers of the loss keep their values: logits that were observed hold NaN or infinity; if this goes "
        "on, lower the learning rate"
    )
    return False


def _check(holds: bool, rule: str, value: float) -> None:
    if not holds:  # NaN fails every rule
        raise ValueError(f"{rule}, got {value}")
