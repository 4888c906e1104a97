"""What a protocol is given, and the arithmetic that protocols share: exact bins, means without what is absent."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from medcalib.metrics.channels import Channels
from medcalib.ops.label_range import not_ignored

Numbers = dict[str, float | None]
HIDDEN = "bins/"  # numbers of a case that only the mean reads
BRATS = ("ET", "TC", "WT")


@dataclass(frozen=True)
class Given:
    """Probabilities (C, *S) float32 and labels (*S) of one case."""

    probs: Tensor
    labels: Tensor
    channels: Channels
    ignore_index: int | None

    @property
    def valid(self) -> Tensor:
        """Voxels that count (*S)."""
        return not_ignored(self.labels, self.ignore_index)

    def structures(self) -> list[int]:
        """The channels that papers report: ET, TC and WT where they are named, else the foreground classes."""
        names = self.channels.names
        if set(BRATS) <= set(names):
            return [names.index(name) for name in BRATS]
        return list(range(1, self.channels.num_classes))

    def of(self, channel: int) -> tuple[Tensor, Tensor]:
        """Probabilities (float32; of a composite, added) and hits of one channel over the valid voxels."""
        members = list(self.channels.members[channel])
        p = self.probs[channel - 1] if self.channels.binary else self.probs[members].sum(0)
        return p[self.valid], self.inside(self.labels, channel)[self.valid]

    def inside(self, labels: Tensor, channel: int) -> Tensor:
        """Where label values (*S) belong to a channel."""
        return torch.isin(labels, torch.tensor(self.channels.members[channel], dtype=labels.dtype))


class Bins(NamedTuple):
    """Voxels, mean probability and frequency of each bin, float64; NaN means where there is no voxel."""

    n: Tensor
    confidence: Tensor
    frequency: Tensor

    def gaps(self) -> Tensor:
        """|mean probability - frequency| of the bins that hold voxels."""
        return (self.confidence - self.frequency)[self.n > 0].abs()

    def expected(self, voxels: int | None = None) -> float:
        """Gaps weighted by the share of voxels; `voxels` where the share is of more than the bins hold."""
        total = int(self.n.sum()) if voxels is None else voxels
        return float((self.n[self.n > 0] * self.gaps()).sum() / total)


def binned(p: Tensor, hits: Tensor, index: Tensor, bins: int) -> Bins:
    """Exact bins from a bin index per voxel; voxels of index -1 are left out."""
    kept = index >= 0
    index, p, hits = index[kept], p[kept], hits[kept]
    n = torch.bincount(index, minlength=bins).double()
    sums = [torch.bincount(index, weights=values.double(), minlength=bins) for values in (p, hits)]
    return Bins(n, sums[0] / n, sums[1] / n)


def right_bins(p: Tensor, edges: Tensor) -> Tensor:
    """Index of the bin (low, high] of each value, -1 at or below the first edge: p > low and p <= high in float32."""
    return torch.bucketize(p, edges.float(), right=False) - 1


def mean_of(cases: Sequence[Numbers], key: str) -> float | None:
    """Mean over the cases that have a number; None where none has."""
    return average(case.get(key) for case in cases)


def average(values: Iterable[float | None]) -> float | None:
    """Mean of the numbers that are known."""
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else None


def number(value: Tensor | float) -> float | None:
    """A float, or None for NaN."""
    found = float(value)
    return None if found != found else found
