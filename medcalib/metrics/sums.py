"""Proper scores from exact sums: Brier score, negative log-likelihood, distance to a known posterior."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from medcalib.ops.scoring import SUM_NAMES, from_limbs


@dataclass(frozen=True)
class ScoreSums:
    """Voxels, limbs of the summed scores (len(SUM_NAMES), 2), and voxels whose true class has probability 0.

    The latter are `zero_probability`; `has_posterior`: whether a true posterior was known.
    """

    voxels: int
    limbs: Tensor
    zero_probability: int
    has_posterior: bool

    @classmethod
    def zeros(cls) -> ScoreSums:
        """Sums over no voxel: the neutral element of `+`."""
        return cls(0, torch.zeros(len(SUM_NAMES), 2, dtype=torch.int64), 0, True)

    def __add__(self, other: ScoreSums) -> ScoreSums:
        return ScoreSums(
            self.voxels + other.voxels,
            self.limbs + other.limbs,
            self.zero_probability + other.zero_probability,
            self.has_posterior and other.has_posterior,
        )

    def brier(self) -> float:
        """Mean over voxels of sum_k (p_k - q_k)^2, in [0, 2] (G. Brier 1950)."""
        return self._mean(0)

    def nll(self) -> float:
        """Mean of -log p_t in nats. A probability of 0 counts as the smallest float32 (87.3 nats)."""
        return self._mean(1)

    def posterior_l1(self) -> float:
        """Mean over voxels and classes of |p - pi|; NaN without a known posterior for every voxel."""
        return self._mean(2) if self.has_posterior else float("nan")

    def _mean(self, row: int) -> float:
        total = float(from_limbs(self.limbs[row, 0], self.limbs[row, 1]))
        return total / self.voxels if self.voxels else float("nan")
