"""Tensor operations on neighborhoods and scores: tensors in, tensors out."""

from medcalib.ops.neighborhood import neighborhood_proportions, window_mean
from medcalib.ops.scoring import ScoreTables, score_voxels

__all__ = ["ScoreTables", "neighborhood_proportions", "score_voxels", "window_mean"]
