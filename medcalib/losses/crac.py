"""The class- and region-adaptive constraints of CRaC."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from medcalib.distributed import all_reduce_sum
from medcalib.losses.multipliers import Multipliers, Penalty
from medcalib.losses.reduction import per_channel, valid_mean, valid_sum
from medcalib.losses.term import Term
from medcalib.ops import heterogeneous, neighborhood_proportions
from medcalib.ops.neighborhood import Padding, check_window

Granularity = Literal["scalar", "class", "region", "class_region"]


class Constraint(NamedTuple):
    """What the multipliers of a batch act on."""

    h: Tensor  # (B, K, *S), >= 0: one entry a class, or one for all where granularity is "region"
    boundary: Tensor | None  # (B, 1, *S) bool; None where regions are not told apart


class CRaCPenalty(Term):
    """mean over voxels, classes and regions of P(h; lam, rho), with h_k = |m_r tau_k - u_k|.

    tau are the class proportions of the window (B, C, *S); u the logits, or their softmax. A voxel is boundary when its
    window holds more than one label, else interior; m is 1 in boundaries and `margin` in the interior. P see
    `penalty_value`; `update` see `Multipliers`.

    granularity: "class_region", the published method, has one multiplier for each class in boundaries (the first C)
    and one in the interior (the last C); a voxel enters the mean of the region it is not in with h = 0. "region" has
    one for each region and the mean of h over classes. "class" and "scalar" take `margin` everywhere; the new
    multipliers of "class" are weighted by the inverse frequency of each class, normalized over the classes present
    (official: NaN when one is absent; here the multiplier of an absent class is kept).
    `one_sided` is relu(u_k - m tau_k), the official constr_type "max". compat: the official code finds boundaries by
    a sum that is zero but for rounding and so misses some; "official" does the same, "exact" compares labels.

    Reference: B. Murugesan et al., Class and Region-Adaptive Constraints for Network Calibration, MICCAI 2024
    (arXiv 2403.12364). Its region-only code groups by foreground and background of all image pairs, and its other
    modules do not import; the intent is followed.
    """

    class_count: Tensor

    def __init__(
        self,
        num_classes: int,
        *,
        margin: float = 5.0,
        granularity: Granularity = "class_region",
        softmax: bool = False,
        one_sided: bool = False,
        kernel_size: int | Sequence[int] = 3,
        padding: Padding = "background",
        compat: Literal["exact", "official"] = "exact",
        penalty: Penalty = "phr",
        rho: float = 0.1,
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
        check_window(kernel_size)
        self.margin, self.granularity, self.softmax, self.one_sided = margin, granularity, softmax, one_sided
        self.kernel_size, self.padding, self.compat = kernel_size, padding, compat
        self.multipliers = Multipliers(
            {"scalar": 1, "class": num_classes, "region": 2, "class_region": 2 * num_classes}[granularity],
            penalty=penalty,
            rho=rho,
            rho_max=rho_max,
            rho_step=rho_step,
            growth=growth,
            tolerance=tolerance,
            lam_min=lam_min,
            lam_max=lam_max,
        )
        self.register_buffer("class_count", torch.zeros(num_classes, dtype=torch.float64))

    def constraint(self, logits: Tensor, labels: Tensor, valid: Tensor) -> Constraint:
        """h and the boundary of a batch; see the class."""
        coded = labels.where(valid, -1)
        target = neighborhood_proportions(
            coded, logits.shape[1], self.kernel_size, "mean", self.padding, -1, dtype=logits.dtype
        )
        boundary = None
        if self.granularity in ("region", "class_region"):
            rounded = logits.dtype if self.compat == "official" else None
            boundary = heterogeneous(coded, self.kernel_size, self.padding, -1, by_rounding=rounded).unsqueeze(1)
            target = torch.where(boundary, target, self.margin * target)
        else:
            target = self.margin * target
        difference = (torch.softmax(logits, 1) if self.softmax else logits) - target
        h = difference.relu() if self.one_sided else difference.abs()
        return Constraint(h.mean(1, keepdim=True) if self.granularity == "region" else h, boundary)

    def forward(self, logits: Tensor, labels: Tensor, valid: Tensor) -> Tensor:
        """The penalty at the present multipliers."""
        h, boundary = self.constraint(logits, labels, valid)
        value = self.multipliers.value(h, *self._lam_rho(h, boundary))
        # of the two regions a voxel is in one; its entry in the other is P(0) = 0
        return valid_mean(value.mean(1), valid) / (1 if boundary is None else 2)

    def observe(self, logits: Tensor, labels: Tensor, valid: Tensor) -> None:
        """Add slopes and violations of a batch, and how often each class occurs."""
        h, boundary = self.constraint(logits, labels, valid)
        slopes, count = self.multipliers.slope(h, *self._lam_rho(h, boundary)), valid.sum()
        self.class_count += torch.bincount(labels[valid], minlength=logits.shape[1])
        if boundary is None:
            slope, violation = valid_sum(slopes, valid), valid_sum(h, valid)
            if self.granularity == "scalar":
                slope, violation = slope.mean(0, keepdim=True), violation.mean(0, keepdim=True)
            self.multipliers.add(slope, violation, count)
            return
        regions = [valid.unsqueeze(1) & boundary, valid.unsqueeze(1) & ~boundary]
        slope, violation = (torch.cat([valid_sum(t, region) for region in regions]) for t in (slopes, h))
        # outside its region a voxel has h = 0, whose slope is lam
        size = torch.stack([region.sum() for region in regions]).repeat_interleave(h.shape[1])
        self.multipliers.add(slope + (count - size) * self.multipliers.lam, violation, count)

    def update(self) -> None:
        """Step the multipliers."""
        present = all_reduce_sum(self.class_count.clone())
        self.class_count.zero_()
        if self.granularity != "class":
            self.multipliers.update()
            return
        inverse = torch.where(present > 0, 1 / present, 0.0)
        self.multipliers.update(share=inverse / inverse.sum())

    def _lam_rho(self, h: Tensor, boundary: Tensor | None) -> tuple[Tensor, Tensor]:
        """lam and rho that hold for each entry of h."""

        def spread(numbers: Tensor) -> Tensor:
            if boundary is None:
                return per_channel(numbers, h)
            first, second = numbers.chunk(2)
            return torch.where(boundary, per_channel(first, h), per_channel(second, h))

        return spread(self.multipliers.lam), spread(self.multipliers.rho)
