"""A factor on a penalty that grows from update to update."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from medcalib.losses.state import Float64Module

Schedule = Literal["none", "add", "multiply", "step"]


class GrowingFactor(Float64Module):
    """`factor`, 1 at the start; each update adds `rate` or multiplies by it, up to `largest`.

    "step" multiplies in every `every`-th update. Buffers, saved and restored with the objective. `schedule`: "none",
    "add", "multiply" or "step".

    Source: the alpha schedules of the MbLS code. There mu and the largest alpha are absolute; here they are relative
    to the weight of the term: rate = mu / weight for "add", mu for the others, largest = max_alpha / weight.
    """

    factor: Tensor
    updates: Tensor

    def __init__(self, schedule: Schedule, rate: float, every: int, largest: float) -> None:
        super().__init__()
        if schedule != "none":
            least = 0 if schedule == "add" else 1
            if not least < rate < float("inf"):
                raise ValueError(f"schedule_rate must be greater than {least} for {schedule!r}, got {rate}")
            if every < 1:
                raise ValueError(f"schedule_every must be at least 1, got {every}")
            if not largest >= 1:
                raise ValueError(f"schedule_max must be at least 1, got {largest}")
        self.schedule, self.rate, self.every, self.largest = schedule, rate, every, largest
        self.register_buffer("factor", torch.ones((), dtype=torch.float64))
        self.register_buffer("updates", torch.zeros((), dtype=torch.int64))

    def update(self) -> None:
        """One step."""
        self.updates += 1
        if self.schedule == "add":
            self.factor += self.rate
        elif self.schedule == "multiply" or (self.schedule == "step" and self.updates % self.every == 0):
            self.factor *= self.rate
        if self.schedule != "none":
            self.factor.clamp_(max=self.largest)
