"""Logits of what a tool stored: its own, or the logarithms of its probabilities."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from medcalib.data.predictions.channels import Activation
from medcalib.data.predictions.checks import quantum
from medcalib.data.predictions.voxels import Voxels
from medcalib.errors import DataError


def as_logits(voxels: Voxels, activation: Activation, names: Sequence[str]) -> NDArray[np.float32]:
    """Logits (C, i, j, k) float32 of stored logits or softmax probabilities, all in memory.

    ln p is the logits but for a constant a voxel, which no softmax sees. A stored 0 has lost its logit: half a step
    of quantized probabilities, else the smallest number of the stored type takes its place. Raises `DataError`
    (region_probabilities) for independent channels, whose probabilities are no distribution over classes.
    """
    if activation == "sigmoid":
        raise DataError(
            "region_probabilities",
            f"the channels are independent regions ({', '.join(names)}); calibrators need probabilities of exclusive "
            "classes: predict with a softmax",
        )
    values = voxels.whole()
    if activation == "softmax":
        np.log(np.maximum(values, smallest(voxels), out=values), out=values)
    return values


def smallest(voxels: Voxels) -> float:
    """What stands in for a stored probability of 0."""
    step = quantum(voxels)
    if 0 < step < 1:
        return step / 2
    kind = voxels.dtype if voxels.dtype.kind == "f" and voxels.dtype.itemsize < 4 else np.dtype(np.float32)
    return float(np.finfo(kind).smallest_subnormal if kind.itemsize < 4 else np.finfo(kind).tiny)
