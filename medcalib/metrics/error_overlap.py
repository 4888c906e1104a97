"""Do the uncertain voxels coincide with the errors? Their overlap, at the best threshold of uncertainty."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from medcalib.metrics.calibration import CalibrationCounts
from medcalib.metrics.cells import is_point, upper_edges

__all__ = ["ErrorOverlap", "uncertainty_error_overlap"]


class ErrorOverlap(NamedTuple):
    """The largest `dice` of {uncertainty > threshold} and {error}, in [0, 1], and its `threshold`."""

    dice: float
    threshold: float


def uncertainty_error_overlap(counts: CalibrationCounts) -> ErrorOverlap:
    """Uncertainty-error overlap of the top label: max over t of 2 |U and E| / (|U| + |E|), U = {1 - p_max > t}.

    t runs over the cell edges: multiples of 1/300 and, near 0, powers of two. Of equal values the largest t is
    given. NaN where nothing is wrong: there is no error to find. The threshold is chosen on the data that it is
    reported for, as in the paper. Reference: A. Jungo, M. Reyes, MICCAI 2019, section 2.3 (U-E).
    """
    n, correct = counts.n[0].numpy(), counts.correct[0].numpy()
    wrong = n - correct
    total = wrong.sum()
    if not total:
        return ErrorOverlap(float("nan"), float("nan"))
    dice = 2 * wrong.cumsum() / (n.cumsum() + total)
    at_edge = np.where(is_point(), -1.0, dice)  # a strict threshold cannot part a point from what lies below it
    best = int(at_edge.argmax())
    return ErrorOverlap(float(at_edge[best]), float(1 - upper_edges()[best]))
