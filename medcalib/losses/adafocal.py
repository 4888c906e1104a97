"""AdaFocal: a focal exponent for each confidence, adapted to the calibration of the validation set."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from medcalib.distributed import all_gather_rows
from medcalib.losses.focal import power, true_and_others
from medcalib.losses.reduction import valid_mean
from medcalib.losses.state import Float64Module
from medcalib.losses.term import Term

log = logging.getLogger(__name__)


class AdaFocalLoss(Term, Float64Module):
    """-(1 - s p_t)^|g| log p_t with g the exponent of the bin of p_t and s its sign; takes the place of cross-entropy.

    `update`: `num_bins` bins of equal mass over the top-class confidences that were observed, (a, b] with edges
    interpolated between sorted confidences; gap = mean confidence - accuracy, 0 in an empty bin. g > 0: g exp(rate
    gap); g < 0: g exp(-rate gap). Where |g| < `switch` the sign changes (to -switch or +switch: overconfident bins
    get focal loss, underconfident ones inverse focal loss). g stays in [gamma_min, gamma_max]. At the start g is
    `gamma` and the edges are i / num_bins. The loss looks the bin up by p_t, though bins come from the top class.

    max_voxels: of each image at most so many valid voxels are observed, evenly spaced, each counted as often as
    the voxels it stands for; None takes all. The official code keeps all, which no volume allows.

    Reference: A. Ghosh et al., AdaFocal, NeurIPS 2022 (arXiv 2211.11838), eq. 7 and 8. The official code sums over
    samples; here it is the mean.
    """

    likelihood = True
    edges: Tensor
    gammas: Tensor

    def __init__(
        self,
        *,
        rate: float = 1.0,
        num_bins: int = 15,
        gamma: float = 1.0,
        gamma_max: float = 20.0,
        gamma_min: float = -2.0,
        switch: float = 0.2,
        max_voxels: int | None = 16384,
    ) -> None:
        super().__init__()
        if rate < 0:
            raise ValueError(f"rate must not be negative, got {rate}")
        if num_bins < 2:
            raise ValueError(f"num_bins must be at least 2, got {num_bins}")
        if not gamma_min < 0 < gamma_max:
            raise ValueError(f"gamma_min must be below 0 and gamma_max above, got {gamma_min} and {gamma_max}")
        if not gamma_min <= gamma <= gamma_max or gamma == 0:
            raise ValueError(f"gamma must lie in [{gamma_min}, {gamma_max}] and not be 0, got {gamma}")
        if not 0 < switch <= min(gamma_max, -gamma_min):
            raise ValueError(f"switch must lie in (0, {min(gamma_max, -gamma_min)}], got {switch}")
        if max_voxels is not None and max_voxels < num_bins:
            raise ValueError(f"max_voxels must be at least num_bins ({num_bins}), got {max_voxels}")
        self.rate, self.num_bins, self.switch, self.max_voxels = rate, num_bins, switch, max_voxels
        self.gamma_max, self.gamma_min = gamma_max, gamma_min
        self.register_buffer("edges", torch.linspace(0, 1, num_bins + 1, dtype=torch.float64))
        self.register_buffer("gammas", torch.full((num_bins,), gamma, dtype=torch.float64))
        self.seen: list[Tensor] = []  # rows (confidence, whether correct, voxels it stands for)

    def forward(self, logits: Tensor, labels: Tensor, valid: Tensor) -> Tensor:
        """See the class."""
        log_true, others = true_and_others(logits, labels)
        confidence = log_true.exp()
        inner = self.edges[1:-1].to(logits.dtype)
        gamma = self.gammas.to(logits.dtype)[torch.bucketize(confidence.detach(), inner, right=True)]
        base = torch.where(gamma > 0, others.sum(1), 1 + confidence)
        return valid_mean(-power(base, gamma.abs()) * log_true, valid)

    def observe(self, logits: Tensor, labels: Tensor, valid: Tensor) -> None:
        """Keep top-class confidences of a batch and whether they were right."""
        for image, label, counts in zip(logits.flatten(2), labels.flatten(1), valid.flatten(1), strict=True):
            places = counts.nonzero().squeeze(1)
            total = len(places)
            if self.max_voxels is not None and total > self.max_voxels:
                step = torch.arange(self.max_voxels, device=places.device)
                places = places[step * total // self.max_voxels]
            if total:
                confidence, predicted = torch.softmax(image[:, places], 0).max(0)
                correct = (predicted == label[places]).double()
                stands_for = torch.full_like(correct, total / len(places))
                self.seen.append(torch.stack([confidence.double(), correct, stands_for], 1))

    def get_extra_state(self) -> Tensor:
        """What was observed since the last update, for `state_dict`."""
        return torch.cat(self.seen) if self.seen else self.edges.new_zeros(0, 3)

    def set_extra_state(self, state: Any) -> None:
        """For `load_state_dict`. `state` is what `get_extra_state` gave."""
        self.seen = [state.to(self.edges)] if len(state) else []

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> AdaFocalLoss:
        super()._apply(fn, recurse)
        self.seen = [rows.to(self.edges.device) for rows in self.seen]
        return self

    def discard(self) -> None:
        """Forget what was observed since the last update."""
        self.seen = []

    def update(self) -> None:
        """Step edges and exponents; nothing changes where nothing was observed."""
        own = self.get_extra_state()
        self.seen = []
        rows = all_gather_rows(own)
        if not len(rows):
            return
        if not bool(rows.isfinite().all()):
            log.warning(
                "the exponents of adafocal keep their values: logits that were observed hold NaN or infinity; if this "
                "goes on, lower the learning rate"
            )
            return
        confidence, correct, weight = rows[rows[:, 0].argsort()].T.contiguous()
        edges = equal_mass_edges(confidence, weight, self.num_bins)
        gap = bin_gaps(confidence, correct, weight, edges)
        sign = self.gammas.sign()
        stepped = self.gammas * torch.exp(self.rate * sign * gap)
        stepped = torch.where(stepped.abs() < self.switch, -self.switch * sign, stepped)
        self.gammas.copy_(stepped.clamp(self.gamma_min, self.gamma_max))
        self.edges.copy_(edges)


def equal_mass_edges(confidence: Tensor, weight: Tensor, num_bins: int) -> Tensor:
    """num_bins + 1 edges between which sorted confidences have equal weight, interpolated linearly.

    Shapes: confidence (n,) ascending, weight (n,) -> (num_bins + 1,). Sample i stands at the weight of those before it;
    the last edges meet the largest confidence.
    """
    position = weight.cumsum(0) - weight
    wanted = torch.linspace(0, 1, num_bins + 1, dtype=torch.float64, device=weight.device) * weight.sum()
    after = torch.searchsorted(position, wanted).clamp(1, max(len(position) - 1, 1)).clamp_max(len(position) - 1)
    before = (after - 1).clamp_min(0)
    share = ((wanted - position[before]) / (position[after] - position[before]).clamp_min(1e-300)).clamp(0, 1)
    return confidence[before] + share * (confidence[after] - confidence[before])


def bin_gaps(confidence: Tensor, correct: Tensor, weight: Tensor, edges: Tensor) -> Tensor:
    """Mean confidence minus accuracy of each bin (a, b], weighted; 0 where no confidence lies.

    Shapes: confidence (n,), correct (n,) in {0, 1}, weight (n,), edges (num_bins + 1,) -> (num_bins,) in [-1, 1].
    """
    place = torch.searchsorted(edges, confidence) - 1  # the smallest confidence lies in no bin
    inside = (place >= 0) & (place < len(edges) - 1)
    sums = edges.new_zeros(2, len(edges) - 1)
    sums[0].index_add_(0, place[inside], (weight * (confidence - correct))[inside])
    sums[1].index_add_(0, place[inside], weight[inside])
    return torch.where(sums[1] > 0, sums[0] / sums[1].clamp_min(1e-300), 0.0)
