"""Scores as values: integer counts that add up, and pure functions of them.

What a name means everywhere in here: `probs` (C, *S) or (B, C, *S) in 0..1, `logits` alike, `labels` (*S) or (B, *S)
integers in 0..C-1, `ignore_index` the label of voxels that count nowhere; `bins`, a divisor of 300, equal bins of
confidence whose `edges` are "right", (a, b] as in the papers, or "left", [a, b); `channel` 0 is the top label (the
largest probability), 1 + k is class k, then unions of classes (`composites`); `spacing_mm` the edges of a voxel (i, j,
k).

What is absent, by one rule: a score that is a ratio is NaN where it divides by 0 and only there (no voxel in a
region, a class in neither reference nor prediction, no error to find), and a distance is NaN where one of the two masks
is empty. It is never set to 0 or 1. `scores.json` writes null, leaves it out of means, and says how many cases had a
value. Published protocols keep the conventions of their authors, which their texts state.
"""

from medcalib.lazy import lazily
from medcalib.metrics.calibration import CalibrationCounts, Reliability
from medcalib.metrics.case import CaseScores, RegionScores
from medcalib.metrics.overlap import OverlapCounts
from medcalib.metrics.score import score_case
from medcalib.metrics.sums import ScoreSums

__all__ = [
    "CalibrationCounts",
    "CaseScores",
    "OverlapCounts",
    "RegionScores",
    "Reliability",
    "ScoreSums",
    "across",
    "brier_parts",
    "error_overlap",
    "intervals",
    "over_seeds",
    "paired",
    "protocols",
    "qu_brats",
    "ranks",
    "regions",
    "score_case",
    "selective",
    "squared",
    "summary",
    "surface",
    "thresholded",
    "volume",
]

__getattr__ = lazily(__name__, __all__)
