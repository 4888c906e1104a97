"""Scores as values: integer counts that add up, and pure functions of them."""

from medcalib.metrics.calibration import CalibrationCounts, Reliability
from medcalib.metrics.case import CaseScores, RegionScores, score_case
from medcalib.metrics.overlap import OverlapCounts
from medcalib.metrics.sums import ScoreSums

__all__ = [
    "CalibrationCounts",
    "CaseScores",
    "OverlapCounts",
    "RegionScores",
    "Reliability",
    "ScoreSums",
    "score_case",
]
