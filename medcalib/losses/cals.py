"""Class-adaptive margins: CALS by an augmented Lagrangian, and by its heuristic rule."""

from __future__ import annotations

import torch
from torch import Tensor

from medcalib.losses.margin import logit_distances
from medcalib.losses.multipliers import Multipliers, Penalty, finite
from medcalib.losses.reduction import per_channel, valid_mean, valid_sum
from medcalib.losses.state import Float64Module, RunningSums
from medcalib.losses.term import FusedPart, Term
from medcalib.ops.fused import FusedStats


def margin_violation(logits: Tensor, *, margin: float, normalize: bool) -> Tensor:
    """h_k = d_k - margin, divided by the margin if `normalize`, with d_k = max_j z_j - z_k; (B, C, *S)."""
    excess = logit_distances(logits) - margin
    return excess / margin if normalize else excess


class CALSPenalty(Term):
    """mean over voxels and classes of P(h_k; lam_k, rho_k): one multiplier for each logit channel.

    h_k = (d_k - margin) / margin, P see `penalty_value`; the multipliers step in `update` (see `Multipliers`). Without
    `normalize`, h_k = d_k - margin. `rho` is the first coefficient; `rho_max`, `rho_step`, `growth`, `tolerance`,
    `lam_min` and `lam_max`: see `Multipliers`.

    Reference: B. Liu et al., Class Adaptive Network Calibration, CVPR 2023 (arXiv 2211.15088), eq. 9 to 12. As in the
    official code it is a mean over classes, not a sum. p3 hardly grows from its start at 1e-6; use phr.
    """

    def __init__(
        self,
        num_classes: int,
        *,
        margin: float = 10.0,
        normalize: bool = True,
        penalty: Penalty = "phr",
        rho: float = 1.0,
        rho_max: float = 10.0,
        rho_step: int = 10,
        growth: float = 1.2,
        tolerance: float = 0.9,
        lam_min: float = 1e-6,
        lam_max: float = 1e6,
    ) -> None:
        super().__init__()
        if margin <= 0:
            raise ValueError(f"margin must be positive, got {margin}")
        self.margin, self.normalize = margin, normalize
        self.multipliers = Multipliers(
            num_classes,
            penalty=penalty,
            rho=rho,
            rho_max=rho_max,
            rho_step=rho_step,
            growth=growth,
            tolerance=tolerance,
            lam_min=lam_min,
            lam_max=lam_max,
        )

    def fused(self, num_classes: int, device: torch.device) -> FusedPart | None:
        """With the phr penalty."""
        del device
        if self.multipliers.penalty != "phr":
            return None
        options = {
            "penalty": "cals",
            "margin": self.margin,
            "inverse_norm": 1 / self.margin if self.normalize else 1.0,
            "lam_min": self.multipliers.lam_min,
            "lam_max": self.multipliers.lam_max,
        }
        both = self.multipliers.lam.expand(2, num_classes), self.multipliers.rho.expand(2, num_classes)
        return FusedPart(options, both)

    def add_sums(self, sums: FusedStats) -> None:
        """Slopes and violations of a fused pass."""
        self.multipliers.add(sums.slope[0], sums.violation[0], sums.voxels)

    def forward(self, logits: Tensor, labels: Tensor, valid: Tensor) -> Tensor:
        """The penalty at the present multipliers."""
        del labels
        h = margin_violation(logits, margin=self.margin, normalize=self.normalize)
        return valid_mean(self.multipliers.value(h, *self._lam_rho(h)).mean(1), valid)

    def observe(self, logits: Tensor, labels: Tensor, valid: Tensor) -> None:
        """Add slopes and violations of a batch."""
        del labels
        h = margin_violation(logits, margin=self.margin, normalize=self.normalize)
        slopes = self.multipliers.slope(h, *self._lam_rho(h))
        self.multipliers.add(valid_sum(slopes, valid), valid_sum(h, valid), valid.sum())

    def update(self) -> None:
        """Step the multipliers."""
        self.multipliers.update()

    def _lam_rho(self, h: Tensor) -> tuple[Tensor, Tensor]:
        return per_channel(self.multipliers.lam, h), per_channel(self.multipliers.rho, h)


class CALSHeuristic(Term, Float64Module):
    """mean over voxels and classes of lam_k relu(d_k - margin), with lam_k = 1 at the start.

    `update`: S_k = mean of lam_k relu(d_k - margin) over what was observed. Where S_k exceeds `tolerance` times that of
    the update before, lam_k grows by the factor `growth`; where it fell below 1/`tolerance` of it, lam_k shrinks by the
    same factor. S_k holds lam_k, so a raised lam_k raises the next S_k: a positive feedback of the official code.

    Source: the code of CALS (arXiv 2211.15088), its learning of margins by rule. There lam starts at the weight; here
    the weight of the term is that start, and the limits 1e-6 and 1e6 hold for lam / start.
    """

    lam: Tensor
    previous: Tensor

    def __init__(self, num_classes: int, *, margin: float = 10.0, growth: float = 1.1, tolerance: float = 1.1) -> None:
        super().__init__()
        for name, value, least in (("margin", margin, 0), ("growth", growth, 1), ("tolerance", tolerance, 1)):
            if not least < value < float("inf"):
                raise ValueError(f"{name} must be greater than {least}, got {value}")
        self.margin, self.growth, self.tolerance = margin, growth, tolerance
        self.register_buffer("lam", torch.ones(num_classes, dtype=torch.float64))
        self.register_buffer("previous", torch.zeros(num_classes, dtype=torch.float64))
        self.sums = RunningSums(excess=num_classes)

    def forward(self, logits: Tensor, labels: Tensor, valid: Tensor) -> Tensor:
        """The penalty at the present multipliers."""
        del labels
        excess = (logit_distances(logits) - self.margin).relu()
        return valid_mean((per_channel(self.lam, excess) * excess).mean(1), valid)

    def observe(self, logits: Tensor, labels: Tensor, valid: Tensor) -> None:
        """Add the excess of a batch."""
        del labels
        self.sums.add(valid.sum(), excess=valid_sum((logit_distances(logits) - self.margin).relu(), valid))

    def update(self) -> None:
        """Step the multipliers; nothing changes where nothing was observed."""
        totals = self.sums.drain()
        if totals is None or not finite(totals):
            return
        now = self.lam * totals["excess"] / totals["voxels"]
        if self.previous.sum() > 0:
            grown, shrunk = now > self.tolerance * self.previous, now < self.previous / self.tolerance
            stepped = torch.where(grown, self.lam * self.growth, torch.where(shrunk, self.lam / self.growth, self.lam))
            self.lam.copy_(stepped.clamp(1e-6, 1e6))
        self.previous.copy_(now)
