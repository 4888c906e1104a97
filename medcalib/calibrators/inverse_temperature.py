"""The temperature that minimizes the NLL, found exactly, for one or several groups of voxels at a time."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from medcalib.calibrators.voxels import Chunk, Voxels

SAMPLE = 1 << 18  # voxels that give the start: the minimum of all is then two or three passes away
LOW, HIGH = 1e-4, 1e4
_TOLERANCE = 1e-11
_MAX_STEPS = 100
Groups = Callable[[Chunk], Tensor]


class Slopes(NamedTuple):
    """First and second derivative of the summed NLL in beta of each group (G,) float64."""

    first: Tensor
    second: Tensor


def temperatures(voxels: Voxels, groups: Groups, num_groups: int) -> Tensor:
    """The T of each group (G,) that minimizes its NLL, mean of logsumexp(z/T) - z_t/T; NaN where there is no minimum.

    The NLL is convex in beta = 1/T. It is minimized by Newton steps in beta, kept inside a shrinking bracket. There
    is no minimum between 1e-4 and 1e4 where every voxel is right, where the logits say nothing, or without a voxel.
    """
    beta = torch.ones(num_groups, dtype=torch.float64)
    if voxels.total > 2 * SAMPLE:
        start = _roots(voxels.sample(SAMPLE), groups, beta)
        beta = torch.where(start.isnan(), beta, start)
    return 1 / _roots(voxels, groups, beta)


def start_temperature(voxels: Voxels) -> float:
    """The T of all voxels, 1 where there is no minimum: where other fits start."""
    return float(temperatures(voxels, _one_group, 1).nan_to_num(1.0))


def one_temperature(voxels: Voxels) -> float:
    """The T of all voxels. Raises ValueError where there is no minimum."""
    found = float(temperatures(voxels, _one_group, 1))
    if math.isnan(found):
        raise ValueError(
            "the NLL has no minimum over temperatures of 1e-4 to 1e4: the voxels are all classified right, or the "
            "logits are uninformative; fit on more, or on harder, cases"
        )
    return found


def _one_group(chunk: Chunk) -> Tensor:
    return torch.zeros_like(chunk.labels)


def _roots(voxels: Voxels, groups: Groups, beta: Tensor) -> Tensor:
    """The beta of each group at which its slope is 0; NaN where there is none.

    Newton, or the bracket's geometric middle where that leaves the bracket or does not halve its last step: without
    errors the slope never ends, and Newton would follow it in steps of one size.
    """
    low, high = torch.full_like(beta, 1 / HIGH), torch.full_like(beta, 1 / LOW)
    moved = torch.full_like(beta, math.inf)
    open_ = torch.ones_like(beta, dtype=torch.bool)
    for _ in range(_MAX_STEPS):
        slope = _slopes(voxels, groups, beta)
        rising = slope.first > 0
        low, high = torch.where(rising, low, beta), torch.where(rising, beta, high)
        step = beta - slope.first / slope.second
        size = (step - beta).abs()
        good = (step >= low) & (step <= high) & (size <= moved / 2)  # false where the step is NaN
        good |= size <= _TOLERANCE * beta  # there, rounding decides on the sides of the bracket
        following = torch.where(good, step, (low * high).sqrt())
        flat = (slope.first == 0) & (slope.second == 0)  # no voxel, or none that says anything
        at_end = (following <= 1.01 / HIGH) | (following >= 0.99 / LOW) | flat
        moved = (following - beta).abs()
        beta = torch.where(open_, torch.where(at_end, math.nan, following), beta)
        open_ &= (moved > _TOLERANCE * following) & ~at_end
        if not bool(open_.any()):
            return beta
    span = f"{float(low.min()):.3g} and {float(high.max()):.3g}"
    raise ValueError(f"the fit did not converge in {_MAX_STEPS} steps (1/T between {span}); fit on more cases")


def _slopes(voxels: Voxels, groups: Groups, beta: Tensor) -> Slopes:
    """Sums over voxels of mean and variance of z_k - z_t under the softmax of beta z."""
    sums = torch.zeros(2, len(beta), dtype=torch.float64)
    for chunk in voxels.chunks():
        group = groups(chunk)
        centered = chunk.logits - chunk.logits.gather(0, chunk.labels[None])
        probs = torch.softmax(centered * beta.to(centered.device)[group], 0)
        mean = (probs * centered).sum(0)
        spread = (probs * centered.sub_(mean).square_()).sum(0)
        for row, value in enumerate((mean, spread)):
            sums[row] += torch.bincount(group, value, len(beta)).cpu()
    return Slopes(*sums)
