"""Classwise ECE over the voxels where a class has any say: p > 0.001."""

from __future__ import annotations

import torch
from torch import Tensor

from medcalib.metrics.calibration import CalibrationCounts, Edges, expected_gap
from medcalib.ops.scoring import FIRST_ABOVE_THRESHOLD

__all__ = ["thresholded_ece"]


def thresholded_ece(counts: CalibrationCounts, bins: int = 15, edges: Edges = "right") -> Tensor:
    """ECE of each class probability over its voxels with p > 1e-3, (C [+ composites],) float64.

    sum_b n_b/N |mean p - frequency| where N counts the kept voxels only; NaN where none is kept. The limit is the
    float32 number 1e-3, at which a cell ends. Its mean over classes is the TCECE of the CRaC code; the threshold is
    that of TACE (J. Nixon et al., CVPR workshops 2019), whose bins hold equal numbers (see the protocol `svls`).
    """
    kept = torch.arange(counts.n.shape[1]) >= FIRST_ABOVE_THRESHOLD
    names = ("n", "correct", "conf_hi", "conf_lo")
    above = CalibrationCounts(**{name: getattr(counts, name) * kept for name in names})
    return expected_gap(above.binned(bins, edges))[1:]
