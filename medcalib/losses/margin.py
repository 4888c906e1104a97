"""The logit-margin penalty of MbLS."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from medcalib.losses.reduction import valid_mean
from medcalib.losses.schedule import GrowingFactor, Schedule
from medcalib.losses.term import FusedPart, Term


def logit_distances(logits: Tensor) -> Tensor:
    """d_k = max_j z_j - z_k >= 0 for logits z (B, C, *S). Classes that tie for the maximum share its gradient."""
    return logits.amax(1, keepdim=True) - logits


def margin_penalty(
    logits: Tensor, labels: Tensor, valid: Tensor, *, margin: float, power: int, two_sided: bool
) -> Tensor:
    """mean over voxels and classes of relu(d_k - margin)^power, with d_k = max_j z_j - z_k >= 0.

    Shapes: logits z (B, C, *S), labels (B, *S) (not used: the margin holds for every class), valid (B, *S)
    bool. The mean runs over N * C entries, the zero of the largest logit included. `two_sided` with power 2 is
    (d - margin)^2, which also pulls small distances up to the margin.
    """
    del labels
    excess = logit_distances(logits) - margin
    if not two_sided:
        excess = excess.relu()
    return valid_mean((excess.square() if power == 2 else excess).mean(1), valid)


class MarginPenalty(Term):
    """Margin-based label smoothing: logit distances beyond the margin are penalized, those within are free.

    `schedule` with `schedule_rate`, `schedule_every` (updates) and `schedule_max`: the weight grows, see
    `GrowingFactor`.

    References: B. Liu et al., The Devil is in the Margin, CVPR 2022, eq. 8; B. Murugesan et al., Calibrating
    segmentation networks with margin-based label smoothing, Medical Image Analysis 2023. The official power-2
    form squares before the relu and so is two-sided: `power=2, two_sided=True` reproduces it, the one-sided
    form is the default. The published results use no schedule; `GrowingFactor` tells what the official ones do.
    """

    def __init__(
        self,
        *,
        margin: float = 10.0,
        power: Literal[1, 2] = 1,
        two_sided: bool = False,
        schedule: Schedule = "none",
        schedule_rate: float = 0.0,
        schedule_every: int = 100,
        schedule_max: float = 1000.0,
    ) -> None:
        super().__init__()
        if margin <= 0:
            raise ValueError(f"margin must be positive, got {margin}")
        if two_sided and power == 1:
            raise ValueError("two_sided=True needs power=2, got power=1: take power=2, or leave two_sided out")
        self.margin, self.power, self.two_sided = margin, power, two_sided
        self.growth = GrowingFactor(schedule, schedule_rate, schedule_every, schedule_max)

    def fused(self, num_classes: int, device: torch.device) -> FusedPart | None:
        """Without a schedule, whose factor is a tensor."""
        del num_classes, device
        if self.growth.schedule != "none":
            return None
        power = -2 if self.two_sided else self.power
        return FusedPart({"penalty": "margin", "margin": self.margin, "power": power})

    def forward(self, logits: Tensor, labels: Tensor, valid: Tensor) -> Tensor:
        """See `margin_penalty`; times the factor of the schedule."""
        penalty = margin_penalty(logits, labels, valid, margin=self.margin, power=self.power, two_sided=self.two_sided)
        return self.growth.factor.to(penalty.dtype) * penalty

    def update(self) -> None:
        """Step the schedule."""
        self.growth.update()
