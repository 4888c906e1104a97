"""Tensor operations on neighborhoods and scores: tensors in, tensors out."""

from medcalib.ops.distance import distance_transform
from medcalib.ops.image_weights import image_weighted_proportions
from medcalib.ops.neighborhood import heterogeneous, neighborhood_proportions, window_mean
from medcalib.ops.scoring import Scorer, ScoreTables, score_voxels

__all__ = [
    "ScoreTables",
    "Scorer",
    "distance_transform",
    "heterogeneous",
    "image_weighted_proportions",
    "neighborhood_proportions",
    "score_voxels",
    "window_mean",
]
