"""Voxels outside the box that a tool worked on, where nnU-Net fills in background afterwards."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def outside_box(filled: NDArray[np.bool_]) -> NDArray[np.bool_] | None:
    """Voxels (i, j, k) outside the smallest box that holds every voxel that is not `filled`.

    `filled` says where a voxel holds exactly what nnU-Net fills in: background 1 and all else 0, or, for region
    models, 0 in all channels. None when no such voxel lies outside the box, or when there is no other voxel.
    """
    box = []
    for axis in range(3):
        others = tuple(k for k in range(3) if k != axis)
        held = np.flatnonzero(~filled.all(others))
        if not held.size:
            return None
        box.append(slice(int(held[0]), int(held[-1]) + 1))
    outside = np.ones(filled.shape, np.bool_)
    outside[tuple(box)] = False
    return outside if outside.any() else None
