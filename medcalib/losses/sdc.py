"""The boundary and signed-distance penalty of SDC."""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor
from torch.nn.functional import l1_loss, mse_loss

from medcalib.losses.reduction import valid_mean
from medcalib.losses.term import Term
from medcalib.ops.distance import distance_transform

Morphology = Literal["gradient", "dilation", "erosion"]
Aggregation = Literal["mean", "gaussian"]
Distance = Literal["l1", "l2"]
Sign = Literal["official", "inside_positive"]

# a neighbor's weight beside 1 for the center, per axis: the box, and a Gaussian of one voxel
NEIGHBOR_WEIGHT: dict[str, float] = {"mean": 1.0, "gaussian": math.exp(-0.5)}
DISTANCES = {"l1": l1_loss, "l2": mse_loss}
SIGNS: dict[str, float] = {"official": 1.0, "inside_positive": -1.0}


def boundary_targets(
    labels: Tensor,
    valid: Tensor,
    num_classes: int,
    *,
    morphology: Morphology,
    aggregation: Aggregation,
    dtype: torch.dtype = torch.float32,
) -> Tensor:
    """The spatially adaptive target u_k = A(M(q_k)) / max(sum_j A(M(q_j)), 1e-6), q_k the mask of class k.

    Shapes: labels (B, *S), valid (B, *S) bool -> (B, C, *S) `dtype`; 0 where not valid. Windows are 3x3 over the last
    two axes, so a volume goes slice by slice over its first axis. M is a morphological operation: dilation, erosion,
    or gradient, which is dilation without erosion; voxels outside the array and ignored ones take no part. A is a
    mean, plain or with Gaussian weights of one voxel, over the array continued by reflection about its outermost
    voxels (an axis of a single voxel has none to reflect and repeats it). With gradient, u is 0 for all classes
    more than two voxels away from a boundary.

    A's division by the weights of the valid neighbors would cancel in u, so the sums are not divided. `morphology` is M
    ("dilation", "erosion", "gradient"), `aggregation` A ("mean", "gaussian").
    """
    target = torch.empty((labels.shape[0], num_classes, *labels.shape[1:]), dtype=dtype, device=labels.device)
    for k in range(num_classes):
        inside = valid & (labels == k)
        marked = _near(inside) if morphology != "erosion" else valid
        if morphology == "gradient":
            marked = marked & _near(valid & ~inside)
        elif morphology == "erosion":
            marked = marked & ~_near(valid & ~inside)
        target[:, k] = _window_sum((marked & valid).to(dtype), NEIGHBOR_WEIGHT[aggregation])
    target /= target.sum(1, keepdim=True).clamp_min_(1e-6)
    return target.masked_fill_(~valid.unsqueeze(1), 0)


def signed_distance_targets(labels: Tensor, valid: Tensor, num_classes: int, *, sdf_sign: Sign) -> Tensor:
    """Signed distance to each class over the largest absolute one of image and class: sdf_k / (max |sdf_k| + 1e-6).

    Shapes: labels (B, *S), valid (B, *S) bool -> (B, C, *S) float32 in [-1, 1]; 0 where not valid. Distances are
    Euclidean, in voxels, in all axes, to the nearest valid voxel: outside a class to the class, inside to another
    one. "official" is positive outside and negative inside, "inside_positive" the opposite. A class that an image
    lacks is 1 away everywhere, one that covers all of it -1 (with the official sign). `sdf_sign` chooses.
    """
    shape = (labels.shape[0], num_classes, *labels.shape[1:])
    sdf, own = torch.empty(shape, dtype=torch.float32, device=labels.device), labels.unsqueeze(1)
    for k in range(num_classes):
        sdf[:, k] = distance_transform(valid & (labels == k))
    # the nearest voxel of another class is the nearest voxel of the nearest other class: no second transform
    sdf.scatter_(1, own, torch.inf)
    sdf.scatter_(1, own, -sdf.amin(1, keepdim=True))
    sdf.masked_fill_(~valid.unsqueeze(1), 0)
    axes = tuple(range(2, sdf.ndim))
    largest = torch.maximum(sdf.amax(axes, keepdim=True), -sdf.amin(axes, keepdim=True))
    scale = torch.where(largest.isinf(), 1.0, largest + 1e-6)
    return sdf.nan_to_num_(posinf=1.0, neginf=-1.0).div_(SIGNS[sdf_sign] * scale)


def sdc_penalty(
    logits: Tensor,
    labels: Tensor,
    valid: Tensor,
    *,
    morphology: Morphology,
    aggregation: Aggregation,
    distance: Distance,
    sdf_scale: float,
    sdf_sign: Sign,
) -> Tensor:
    """mean over voxels and classes of d(u_k, p_k) + d(2 p_k - 1, sdf_k) / sdf_scale, p = softmax(logits).

    Shapes: logits (B, C, *S) with 2 or 3 spatial axes, labels (B, *S), valid (B, *S) bool. d is |.| ("l1") or the
    square ("l2"); u of `boundary_targets` and sdf of `signed_distance_targets` carry no gradient. `distance` is d;
    `morphology`, `aggregation` and `sdf_sign`: as there. Raises ValueError for another number of axes.
    """
    if logits.ndim not in (4, 5):
        raise ValueError(
            f"sdc needs 2 or 3 spatial axes: logits must be (B, C, H, W) or (B, C, D, H, W), got {tuple(logits.shape)}"
        )
    probs, classes, apart = torch.softmax(logits, 1), logits.shape[1], DISTANCES[distance]
    with torch.no_grad():
        sdf = signed_distance_targets(labels, valid, classes, sdf_sign=sdf_sign).to(logits.dtype)
        soft = boundary_targets(
            labels, valid, classes, morphology=morphology, aggregation=aggregation, dtype=logits.dtype
        )
    boundary = apart(probs, soft, reduction="none").mean(1)
    return valid_mean(boundary + apart(2 * probs - 1, sdf, reduction="none").mean(1) / sdf_scale, valid)


class SDCPenalty(Term):
    """Pulls probabilities to soft class boundaries, and 2p - 1 to the signed distance of each class.

    Reference: W. Liang et al., Calibrating on Medical Segmentation Model through Signed-Distance, CIKM 2025
    (arXiv 2503.05107), and its code. The official loss is cross-entropy + 0.1 (first part) + 0.1 (second part) / 100:
    here weight 0.1 and sdf_scale 100.

    The official signed distance is negative inside a class, where 2p - 1 should be positive: at its sign the second
    part pushes against the segmentation, which its weight of 0.001 hides. The default keeps it, as published;
    `sdf_sign="inside_positive"` makes the two agree, and only with it a larger weight (a smaller sdf_scale) makes
    sense. Two more things to know: with morphology "gradient" u is 0 for all classes away from boundaries, where the
    first part is 1/C for any prediction with "l1" and pulls to uniform probabilities with "l2"; and distances
    disregard the spacing of voxels.

    Differs from the official code: for a class that is absent or covers an image that code measures to a point
    outside the array, here the signed distance is then 1 and -1; ignored voxels are supported. Its other
    morphological operations and aggregations are left out. `aggregation`: see `boundary_targets`.
    """

    def __init__(
        self,
        *,
        morphology: Morphology = "gradient",
        aggregation: Aggregation = "mean",
        distance: Distance = "l1",
        sdf_scale: float = 100.0,
        sdf_sign: Sign = "official",
    ) -> None:
        super().__init__()
        if not 0 < sdf_scale < float("inf"):
            raise ValueError(f"sdf_scale must be positive and finite, got {sdf_scale}")
        self.morphology, self.aggregation, self.distance = morphology, aggregation, distance
        self.sdf_scale, self.sdf_sign = sdf_scale, sdf_sign

    def forward(self, logits: Tensor, labels: Tensor, valid: Tensor) -> Tensor:
        """See `sdc_penalty`."""
        return sdc_penalty(
            logits,
            labels,
            valid,
            morphology=self.morphology,
            aggregation=self.aggregation,
            distance=self.distance,
            sdf_scale=self.sdf_scale,
            sdf_sign=self.sdf_sign,
        )


def _near(mask: Tensor) -> Tensor:
    """Whether the 3x3 window of the last two axes, within the array, holds a True of `mask`."""
    for axis in (-2, -1):
        near, rest = mask.clone(), mask.shape[axis] - 1
        near.narrow(axis, 1, rest).logical_or_(mask.narrow(axis, 0, rest))
        near.narrow(axis, 0, rest).logical_or_(mask.narrow(axis, 1, rest))
        mask = near
    return mask


def _window_sum(values: Tensor, neighbor: float) -> Tensor:
    """Weighted sum over the 3x3 window of the last two axes, reflected at their ends without the end itself."""
    for axis in (-2, -1):
        rest = values.shape[axis] - 1
        second, second_last = values.narrow(axis, min(1, rest), 1), values.narrow(axis, max(rest - 1, 0), 1)
        before = torch.cat((second, values.narrow(axis, 0, rest)), axis)
        after = torch.cat((values.narrow(axis, 1, rest), second_last), axis)
        values = values + neighbor * (before + after)
    return values
