"""Constants and small inputs that tests of several layers share."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import torch
from scipy.ndimage import gaussian_filter

LPS = np.diag([-1.5, -1.5, 8.0, 1.0])
REPOSITORY = Path(__file__).parent.parent


def smooth_case(
    seed: int = 0, classes: int = 4, shape: tuple[int, ...] = (20, 24, 10), sharpness: float = 3.0
) -> tuple[torch.Tensor, torch.Tensor]:
    """probs (C, *S) float32 of smooth random fields and labels (*S) uint8 drawn from them: calibrated."""
    rng = np.random.default_rng(seed)
    fields = np.stack([gaussian_filter(rng.standard_normal(shape), 2.0) for _ in range(classes)])
    logits = torch.from_numpy(fields / fields.std() * sharpness)
    probs = logits.softmax(0)
    drawn = (probs.cumsum(0) < torch.from_numpy(rng.random(shape))).sum(0).clamp_max(classes - 1)
    return probs.float(), drawn.to(torch.uint8)


def leave_group() -> None:
    """End the process of a rank. To destroy its group can hang: torch holds the GIL while it joins gloo's threads, one
    of which may be waiting for the GIL to let go of a tensor."""
    os._exit(0)
