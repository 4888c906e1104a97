"""Surface distances in mm, computed by MONAI; here only units and empty masks are settled."""

from __future__ import annotations

import warnings
from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.ndimage import find_objects


def hd95_mm(predicted: NDArray[np.bool_], reference: NDArray[np.bool_], spacing_mm: Sequence[float]) -> float:
    """95th percentile of the symmetric surface distance between two masks (i, j, k), in mm.

    NaN when either mask is empty: there is no distance to nothing (and 0 would call a miss perfect).
    """
    from monai.metrics import compute_hausdorff_distance

    both = predicted | reference
    if not predicted.any() or not reference.any():
        return float("nan")
    box = find_objects(both.astype(np.uint8))[0]
    box = tuple(slice(max(s.start - 1, 0), s.stop + 1) for s in box)
    masks = [torch.from_numpy(np.ascontiguousarray(m[box]))[None, None].float() for m in (predicted, reference)]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        distance = compute_hausdorff_distance(
            masks[0], masks[1], include_background=True, percentile=95, spacing=list(spacing_mm)
        )
    return float(distance)
