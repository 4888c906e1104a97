"""The QU-BraTS score: uncertain voxels are taken out; what is left should be better, and little should be lost."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from medcalib.metrics.calibration import CalibrationCounts
from medcalib.metrics.cells import cell_of_multiple
from medcalib.ops.scoring import NUM_CELLS

__all__ = ["QuBrats", "qu_brats"]

STEPS = 50  # 51 thresholds in steps of 2 %: those that fall on edges of cells (the challenge's code takes 40 steps)
Array = NDArray[np.float64]


class QuBrats(NamedTuple):
    """Of each channel, (C [+ composites],) in [0, 1]: `score` = (dice + 1 - filtered_tp + 1 - filtered_tn) / 3.

    `dice` is the area under the Dice of what is left, `filtered_tp` and `filtered_tn` under the ratios of true
    positives and true negatives that are filtered away.
    """

    score: Array
    dice: Array
    filtered_tp: Array
    filtered_tn: Array


def qu_brats(counts: CalibrationCounts) -> QuBrats:
    """QU-BraTS score of each channel as a binary task, in [0, 1]; NaN where it is in neither reference nor prediction.

    A voxel is predicted where p > 0.5, and its uncertainty is u = 100 (1 - |2 p - 1|): 0 at p = 0 and 1, 100 at
    p = 0.5. For thresholds t = 0, 2, ..., 100, voxels with u > t are taken out. Dice of those that stay (1 where
    neither holds any), and the shares of true positives and true negatives that were lost (0 where there was
    none), are integrated over t by the trapezoidal rule:
        score = (area of Dice + 1 - area of lost TP + 1 - area of lost TN) / 3
    The challenge counts true negatives within a brain mask: give it as a mask and read that region.

    Reference: R. Mehta et al., MELBA 2022, section 3 (their code: RagMeh11/QU-BraTS).
    """
    n, hits = (table.numpy()[1:].astype(np.float64) for table in (counts.n, counts.correct))
    above = np.arange(NUM_CELLS) > cell_of_multiple(150)
    kept = _kept()
    tp, fp = (hits * above) @ kept, ((n - hits) * above) @ kept
    fn, tn = (hits * ~above) @ kept, ((n - hits) * ~above) @ kept
    dice = _ratio(2 * tp, 2 * tp + fp + fn, 1.0)
    lost = [_ratio(v[:, -1:] - v, np.broadcast_to(v[:, -1:], v.shape), 0.0) for v in (tp, tn)]
    absent = (tp + fp + fn)[:, -1] == 0
    areas = [np.where(absent, np.nan, np.trapezoid(v, dx=1 / STEPS)) for v in (dice, *lost)]
    return QuBrats((areas[0] + 2 - areas[1] - areas[2]) / 3, *areas)


def _kept() -> Array:
    """(NUM_CELLS, STEPS + 1): 1 where a cell stays under the threshold: p <= t/200 or p >= 1 - t/200."""
    cells = np.arange(NUM_CELLS)
    columns = []
    for step in range(STEPS + 1):
        edge = 3 * step  # t/200 in units of 1/300
        columns.append((cells <= cell_of_multiple(edge)) | (cells >= cell_of_multiple(300 - edge)))
    return np.stack(columns, 1).astype(np.float64)


def _ratio(above: Array, below: Array, otherwise: float) -> Array:
    found: Array = np.divide(above, below, out=np.full(below.shape, otherwise), where=below > 0)
    return found
