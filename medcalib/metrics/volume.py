"""Volumes in ml: of the segmentation and of the summed probabilities, against the reference, with an interval."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

import torch
from scipy.special import ndtri
from torch import Tensor

from medcalib.metrics.calibration import CalibrationCounts
from medcalib.metrics.cells import cell_of_multiple
from medcalib.metrics.overlap import OverlapCounts
from medcalib.ops.scoring import from_limbs

__all__ = ["VolumeCounts"]

LOW, HIGH = 7, 293  # in 1/300: the narrowest pair of cell edges that holds the middle 95 %, 2.33 % to 97.67 %


@dataclass(frozen=True)
class VolumeCounts:
    """Voxels of each channel (C [+ composites],) int64: in the reference, predicted, and with p above each level.

    `expected` and `square` (..., 2) are limbs of the summed p and p^2. The levels: `above_low` counts p > 7/300,
    `above_high` p > 293/300.
    """

    reference: Tensor
    predicted: Tensor
    above_low: Tensor
    above_high: Tensor
    expected: Tensor
    square: Tensor

    @classmethod
    def of(cls, counts: CalibrationCounts, overlap: OverlapCounts) -> VolumeCounts:
        """The volumes that lie in calibration counts of all voxels of a case.

        `overlap` is of the same voxels. Raises ValueError for counts of logits, which lack the squares.
        """
        if counts.square is None:
            raise ValueError(
                "volumes need counts made by CalibrationCounts.from_probs or score_case, with summed squares"
            )
        low, high = (counts.n[1:, cell_of_multiple(k) + 1 :].sum(-1) for k in (LOW, HIGH))
        expected = torch.stack([counts.conf_hi[1:].sum(-1), counts.conf_lo[1:].sum(-1)], -1)
        return cls(overlap.tp + overlap.fn, overlap.tp + overlap.fp, low, high, expected, counts.square[1:])

    def in_ml(self, channel: int, spacing_mm: Sequence[float]) -> dict[str, Any]:
        """Volumes of one channel in ml; what holds for voxels that are independent, or all depend on one another.

        `expected` is sum p. The interval of independent voxels is the normal one, sum p -+ 1.96 sqrt(sum p (1 - p)):
        far too narrow, since neighbors err together. The interval of dependent voxels takes the other extreme, one
        uniform number u for all, so that the volume is #{p > u}; its 2.33 % and 97.67 % quantiles (the cell edges
        around 95 %) are #{p > 293/300} and #{p > 7/300}. `inside_*`: whether the reference lies inside.
        """
        voxel = prod(spacing_mm) / 1000
        expected = float(from_limbs(*self.expected[channel]))
        spread = max(expected - float(from_limbs(*self.square[channel])), 0.0) ** 0.5 * float(ndtri(0.975))
        reference, predicted = int(self.reference[channel]), int(self.predicted[channel])
        limits = {
            "independent": (max(expected - spread, 0.0), expected + spread),
            "dependent": (int(self.above_high[channel]), int(self.above_low[channel])),
        }
        found: dict[str, Any] = {
            "reference": reference * voxel,
            "predicted": predicted * voxel,
            "expected": expected * voxel,
            "error": (predicted - reference) * voxel,
            "absolute_error": abs(predicted - reference) * voxel,
            "expected_error": (expected - reference) * voxel,
        }
        for name, (low, high) in limits.items():
            found |= {f"{name}_low": low * voxel, f"{name}_high": high * voxel}
            found[f"inside_{name}"] = low <= reference <= high
        return found
