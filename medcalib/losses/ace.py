"""Marginal L1 average calibration error as a loss, with hard and with soft bins."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from medcalib.losses.term import Term

_SPAN = 1 + 2.0**-23  # the bins cover [0, _SPAN], as in the official code
_LANES = 32  # partial sums per bin, so that neighboring voxels need not wait for one address on a GPU
_EMPTY = 0.01  # total weight below which a bin counts as empty


class BinSums(NamedTuple):
    """Sums over the valid voxels of an image by class and bin, each (B, C, num_bins) in float64.

    With w the share of a voxel that a bin gets and q the one-hot label: weight = sum w, predicted = sum w p,
    observed = sum w q. float32 would stop counting at 2^24 and lose the small gaps of a large bin long before.
    """

    weight: Tensor
    predicted: Tensor
    observed: Tensor


def hard_bins(probs: Tensor, labels: Tensor, valid: Tensor, *, num_bins: int) -> BinSums:
    """Sums over bins (e_j, e_j+1] of equal width, e_j = j (1 + 2^-23) / num_bins; p = 0 lies in the first.

    Shapes: probs (B, C, *S), labels (B, *S), valid (B, *S) bool. Only `predicted` has a gradient.
    """
    rows, ones, sums = _rows(valid, num_bins), torch.ones_like(labels, dtype=torch.float64), []
    for k, p in enumerate(probs.unbind(1)):
        position = (p.detach().double() * num_bins).div_(_SPAN)
        cell = position.ceil_().long().sub_(1).clamp_(0, num_bins - 1)
        index = cell.mul_(2).add_(labels == k).add_(rows)
        count, predicted = (_tally(values, index, valid, num_bins) for values in (ones, p))
        sums.append(torch.stack([count.sum(-1), predicted.sum(-1), count[..., 1]]))
    return BinSums(*torch.stack(sums, 2))


def soft_bins(probs: Tensor, labels: Tensor, valid: Tensor, *, num_bins: int) -> BinSums:
    """Sums over the same bins, a voxel being split linearly between the two bins whose centers enclose its p.

    A p beyond the outermost centers belongs to the outermost bin. Shapes: probs (B, C, *S), labels (B, *S),
    valid (B, *S) bool. All three sums have a gradient. `num_bins` of equal width.
    """
    rows, ones, sums = _rows(valid, num_bins), torch.ones_like(labels, dtype=torch.float64), []
    for k, p in enumerate(probs.unbind(1)):
        position = p.double() * num_bins / _SPAN - 0.5  # in bin widths from the first center
        cell = position.detach().floor().long().clamp_(0, num_bins - 1)  # bin with the center at or below p
        inside = (position > 0) & (position < num_bins - 1)
        upper = torch.where(inside, position - cell, 0.0).to(p.dtype)  # share of the next bin
        index = cell.mul(2).add_(labels == k).add_(rows)
        count, predicted, count_upper, predicted_upper = (
            _tally(values, index, valid, num_bins) for values in (ones, p, upper, upper * p)
        )
        count, predicted = _shared(count, count_upper), _shared(predicted, predicted_upper)
        sums.append(torch.stack([count.sum(-1), predicted.sum(-1), count[..., 1]]))
    return BinSums(*torch.stack(sums, 2))


def average_calibration_error(bins: BinSums, *, ignore_empty_classes: bool) -> Tensor:
    """mean over images b and classes k of ACE_bk = mean over nonempty bins of |mean p - mean q|, in float64.

    `ignore_empty_classes` sets ACE_bk to 0 where no valid voxel of the image has the class; the class still
    counts in the mean. An image without a valid voxel adds 0.
    """
    filled = bins.weight >= _EMPTY
    gap = (bins.predicted - bins.observed).abs() / bins.weight.where(filled, 1.0)
    error = gap.where(filled, 0.0).sum(-1) / filled.sum(-1).clamp_min(1)
    if ignore_empty_classes:
        error = error.where(bins.observed.sum(-1) > 0, 0.0)
    return error.mean()


class HardACE(Term):
    """mL1-ACE with hard bins: the gradient moves the mean probability of a bin, voxels do not change bins.

    `num_bins`: 1 to 1000 of equal width. Without `include_background` class 0 is left out; with `ignore_empty_classes`
    a class that an image lacks counts as 0.

    References: T. Barfoot et al., Average Calibration Error: A Differentiable Loss for Improved Reliability in
    Image Segmentation, MICCAI 2024; T. Barfoot et al., Average Calibration Losses for Reliable Uncertainty in
    Medical Image Segmentation, arXiv 2506.03942. The official code documents bins as [e_j, e_j+1) but computes
    (e_j, e_j+1], as here. It trains with equal weights of this term, Dice (`squared=True, smooth_nr=0`) and
    cross-entropy, and casts to float32; here sums are float64 and ignored voxels are left out.
    """

    def __init__(
        self, *, num_bins: int = 20, include_background: bool = True, ignore_empty_classes: bool = True
    ) -> None:
        super().__init__()
        if not 1 <= num_bins <= 1000:
            raise ValueError(f"num_bins must lie in 1..1000, got {num_bins}")
        self.num_bins = num_bins
        self.include_background, self.ignore_empty_classes = include_background, ignore_empty_classes

    def forward(self, logits: Tensor, labels: Tensor, valid: Tensor) -> Tensor:
        """See `hard_bins` and `average_calibration_error`."""
        return self._error(hard_bins(torch.softmax(logits, 1), labels, valid, num_bins=self.num_bins)).to(logits.dtype)

    def _error(self, bins: BinSums) -> Tensor:
        if not self.include_background:
            bins = BinSums(*(sums[:, 1:] for sums in bins))
        return average_calibration_error(bins, ignore_empty_classes=self.ignore_empty_classes)


class SoftACE(HardACE):
    """mL1-ACE with soft bins: the gradient also moves voxels between bins. Parameters and references as `HardACE`."""

    def forward(self, logits: Tensor, labels: Tensor, valid: Tensor) -> Tensor:
        """See `soft_bins` and `average_calibration_error`."""
        return self._error(soft_bins(torch.softmax(logits, 1), labels, valid, num_bins=self.num_bins)).to(logits.dtype)


def _rows(valid: Tensor, num_bins: int) -> Tensor:
    """Where the table of each voxel's image and lane starts; ignored voxels get a table of their own at the end."""
    images, voxels = valid.shape[0], valid[0].numel()
    lane = torch.arange(voxels, device=valid.device).remainder_(_LANES).view_as(valid[0])
    image = torch.arange(images, device=valid.device).view(-1, *(1,) * lane.ndim)
    return (image * _LANES + lane).where(valid, images * _LANES) * (2 * num_bins)


def _tally(values: Tensor, index: Tensor, valid: Tensor, num_bins: int) -> Tensor:
    """Sums of `values` by image, bin and whether the label is the class: (B, num_bins, 2) in float64."""
    images = valid.shape[0]
    table = torch.zeros((images * _LANES + 1) * 2 * num_bins, dtype=torch.float64, device=values.device)
    table = table.scatter_add(0, index.flatten(), values.double().flatten())
    return table[: -2 * num_bins].view(images, _LANES, num_bins, 2).sum(1)


def _shared(total: Tensor, upper: Tensor) -> Tensor:
    """Sums by bin from sums by cell: what a cell leaves below, and what the cell before hands up."""
    below = torch.cat([torch.zeros_like(upper[:, :1]), upper[:, :-1]], 1)
    return total - upper + below
