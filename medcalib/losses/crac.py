"""The class- and region-adaptive constraints of CRaC."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from medcalib.losses.multipliers import Multipliers, Penalty
from medcalib.losses.reduction import per_channel, valid_mean, valid_sum
from medcalib.losses.state import RunningSums
from medcalib.losses.term import FusedPart, Term
from medcalib.ops import heterogeneous, neighborhood_proportions
from medcalib.ops.fused import FusedStats
from medcalib.ops.neighborhood import Padding, check_window

Granularity = Literal["scalar", "class", "region", "class_region"]


class Constraint(NamedTuple):
    """What the multipliers of a batch act on: h (B, K, *S) >= 0, and which voxels are boundary (B, 1, *S) bool."""

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
    a sum that is zero but for rounding and so misses some; "official" does the same, "exact" compares labels. `rho` is
    the first coefficient; `rho_max`, `rho_step`, `growth`, `tolerance`, `lam_min` and `lam_max`: see `Multipliers`.

    Reference: B. Murugesan et al., Class and Region-Adaptive Constraints for Network Calibration, MICCAI 2024
    (arXiv 2403.12364). Its region-only code groups by foreground and background of all image pairs, and its other
    modules do not import; the intent is followed.
    """

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
        self.classes = RunningSums(voxels_of=num_classes)

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

    def fused(self, num_classes: int, device: torch.device) -> FusedPart | None:
        """The published constraint with the phr penalty and exact boundaries."""
        del device
        if self.softmax or self.one_sided or self.compat == "official" or self.multipliers.penalty != "phr":
            return None
        by_region = self.granularity in ("region", "class_region")
        options = {
            "penalty": "neighbor",
            "window": "mean",
            "kernel_size": self.kernel_size,
            "padding": self.padding,
            "by_region": by_region,
            "class_mean": self.granularity == "region",
            "factor_boundary": 1.0 if by_region else self.margin,
            "factor_interior": self.margin,
            "scale": 0.5 if by_region else 1.0,
            "lam_min": self.multipliers.lam_min,
            "lam_max": self.multipliers.lam_max,
        }
        rows = (2, -1) if by_region else (1, -1)
        lam, rho = (t.reshape(rows).expand(2, num_classes) for t in (self.multipliers.lam, self.multipliers.rho))
        return FusedPart(options, (lam, rho))

    def add_sums(self, sums: FusedStats) -> None:
        """Slopes, violations and class counts of a fused pass."""
        self.classes.add(sums.voxels, voxels_of=sums.class_count)
        slope, violation = sums.slope, sums.violation
        if self.granularity == "scalar":
            self.multipliers.add(slope[0].mean(0, keepdim=True), violation[0].mean(0, keepdim=True), sums.voxels)
        elif self.granularity == "class":
            self.multipliers.add(slope[0], violation[0], sums.voxels)
        else:
            columns = 1 if self.granularity == "region" else slope.shape[1]
            sizes = torch.stack([sums.boundary_voxels, sums.voxels - sums.boundary_voxels]).repeat_interleave(columns)
            slopes, violations = slope[:, :columns].reshape(-1), violation[:, :columns].reshape(-1)
            self._add_by_region(slopes, violations, sizes, sums.voxels)

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
        self.classes.add(count, voxels_of=torch.bincount(labels[valid], minlength=logits.shape[1]))
        if boundary is None:
            slope, violation = valid_sum(slopes, valid), valid_sum(h, valid)
            if self.granularity == "scalar":
                slope, violation = slope.mean(0, keepdim=True), violation.mean(0, keepdim=True)
            self.multipliers.add(slope, violation, count)
            return
        regions = [valid.unsqueeze(1) & boundary, valid.unsqueeze(1) & ~boundary]
        slope, violation = (torch.cat([valid_sum(t, region) for region in regions]) for t in (slopes, h))
        sizes = torch.stack([region.sum() for region in regions]).repeat_interleave(h.shape[1])
        self._add_by_region(slope, violation, sizes, count)

    def _add_by_region(self, slope: Tensor, violation: Tensor, sizes: Tensor, count: Tensor) -> None:
        """Outside its region a voxel has h = 0, whose slope is lam."""
        self.multipliers.add(slope + (count - sizes) * self.multipliers.lam, violation, count)

    def update(self) -> None:
        """Step the multipliers."""
        seen = self.classes.drain()
        if self.granularity != "class" or seen is None:
            self.multipliers.update()
            return
        inverse = torch.where(seen["voxels_of"] > 0, 1 / seen["voxels_of"], 0.0)
        self.multipliers.update(share=inverse / inverse.sum())

    def _lam_rho(self, h: Tensor, boundary: Tensor | None) -> tuple[Tensor, Tensor]:
        """lam and rho that hold for each entry of h."""

        def spread(numbers: Tensor) -> Tensor:
            if boundary is None:
                return per_channel(numbers, h)
            first, second = numbers.chunk(2)
            return torch.where(boundary, per_channel(first, h), per_channel(second, h))

        return spread(self.multipliers.lam), spread(self.multipliers.rho)
