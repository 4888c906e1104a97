"""Tensor operations on neighborhoods and scores: tensors in, tensors out.

What a name means everywhere in here: `labels` (B, *S) integers in 0..C-1, S the axes of space in array order;
`num_classes` C, background included; `ignore_index` the label of voxels that count nowhere, `valid` (B, *S) bool those
that count; `kernel_size` the edge of a window in voxels, odd, 1 to 51, one number or one an axis; `padding` what lies
beyond the border: "background" (class 0), "replicate" (the nearest voxel) or "zeros" (no class); `sigma` the width of a
Gaussian in voxels.
"""

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
