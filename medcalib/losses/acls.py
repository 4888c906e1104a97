"""The adaptive and conditional penalty of ACLS."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from medcalib.losses.reduction import valid_mean
from medcalib.losses.term import FusedPart, Term


def acls_penalty(
    logits: Tensor,
    labels: Tensor,
    valid: Tensor,
    *,
    margin: float,
    weight_top: float,
    weight_rest: float,
    top_reference: Literal["zero", "min"],
) -> Tensor:
    """mean over voxels of weight_top relu(M - r - margin)^2 + weight_rest/(C-1) sum_k relu(sg(M) - z_k - margin)^2.

    Shapes: logits z (B, C, *S), labels (B, *S) (not used), valid (B, *S) bool. M = max_k z_k; classes that tie
    for it each add a first summand. r is 0, or min_k z_k for `top_reference="min"`. In the second summand M is a
    constant for the gradient (sg): it moves the smaller logits only.
    """
    del labels
    largest = logits.detach().amax(1, keepdim=True)
    reference = logits.amin(1, keepdim=True) if top_reference == "min" else 0.0
    top = (logits - reference - margin).relu().square().where(logits == largest, 0.0)
    rest = (largest - logits - margin).relu().square()  # 0 for the largest logit
    return valid_mean(weight_top * top.sum(1) + weight_rest * rest.sum(1) / (logits.shape[1] - 1), valid)


class ACLSPenalty(Term):
    """Lowers the largest logit beyond the margin, and raises those that lie further than the margin below it.

    `weight_top` and `weight_rest` weigh the two parts, see `acls_penalty`.

    Reference: H. Park et al., ACLS: Adaptive and Conditional Label Smoothing for Network Calibration, ICCV 2023
    (arXiv 2308.11911). As in the official code, the largest logit is measured from zero, so the penalty depends
    on a shift of all logits; `top_reference="min"` measures it from the smallest logit of the voxel.
    """

    def __init__(
        self,
        *,
        margin: float = 10.0,
        weight_top: float = 1.0,
        weight_rest: float = 0.1,
        top_reference: Literal["zero", "min"] = "zero",
    ) -> None:
        super().__init__()
        if margin <= 0:
            raise ValueError(f"margin must be positive, got {margin}")
        for name, value in (("weight_top", weight_top), ("weight_rest", weight_rest)):
            if not 0 <= value < float("inf"):
                raise ValueError(f"{name} must be finite and not negative, got {value}")
        self.margin, self.weight_top, self.weight_rest = margin, weight_top, weight_rest
        self.top_reference = top_reference

    def fused(self, num_classes: int, device: torch.device) -> FusedPart | None:
        """With the top logit measured from zero."""
        del num_classes, device
        if self.top_reference != "zero":
            return None
        weights = {"weight_top": self.weight_top, "weight_rest": self.weight_rest}
        return FusedPart({"penalty": "acls", "margin": self.margin, **weights})

    def forward(self, logits: Tensor, labels: Tensor, valid: Tensor) -> Tensor:
        """See `acls_penalty`."""
        return acls_penalty(
            logits,
            labels,
            valid,
            margin=self.margin,
            weight_top=self.weight_top,
            weight_rest=self.weight_rest,
            top_reference=self.top_reference,
        )
