"""What an objective expects of a term."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from medcalib.losses.state import RunningSums
from medcalib.ops.fused import FusedStats


class FusedPart(NamedTuple):
    """What a term contributes to one fused pass: options of a `FusedSpec`, and lam and rho (2, C) of its penalty.

    The latter are `multipliers`, None for a penalty that has none.
    """

    options: dict[str, Any]
    multipliers: tuple[Tensor, Tensor] | None = None


class Term(nn.Module):
    """A summand of an objective: `(logits, labels, valid) -> scalar`.

    Shapes: logits (B, C, *S) in float32 at least, labels (B, *S) int64 in 0..C-1, valid (B, *S) bool. The
    keyword-only parameters of a subclass' constructor are its config. A term with multipliers keeps them in
    float64 buffers and overrides `observe` and `update`. One that looks at the image sets `uses_images` and
    gets images (B, M, *S) as a fourth argument.
    """

    likelihood = False  # True for a term that replaces cross-entropy; an objective has at most one
    uses_images = False

    def forward(self, logits: Tensor, labels: Tensor, valid: Tensor) -> Tensor:
        """The value of the term, a scalar. Raises TypeError in a subclass that has none of its own."""
        raise TypeError(f"{type(self).__name__} does not define forward(logits, labels, valid)")

    def fused(self, num_classes: int, device: torch.device) -> FusedPart | None:
        """How the fused operator computes this term; None where it cannot.

        `device` is that of the logits: each has kernels of its own.
        """
        del num_classes, device
        return None

    def add_sums(self, sums: FusedStats) -> None:
        """As `observe`, from the sums of a fused pass; for a term that is `fused`.

        Raises TypeError in a subclass that is `fused` and has none of its own.
        """
        raise TypeError(f"{type(self).__name__} does not define add_sums(sums)")

    def observe(self, logits: Tensor, labels: Tensor, valid: Tensor) -> None:
        """Add up what a batch says about the multipliers; without multipliers there is nothing to do."""

    def discard(self) -> None:
        """Forget what was observed since the last update."""
        for module in self.modules():
            if isinstance(module, RunningSums):
                module.clear()

    def update(self) -> None:
        """Step the multipliers from everything observed since the last step, on all ranks together."""
