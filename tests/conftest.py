"""What several tests share: small volumes, label maps, real data where it is at hand."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from medcalib.data.nifti import write_volume

LPS = np.diag([-1.5, -1.5, 8.0, 1.0])
REPOSITORY = Path(__file__).parent.parent


@pytest.fixture(scope="session", autouse=True)
def _two_threads() -> None:
    torch.set_num_threads(2)


@pytest.fixture(scope="session")
def real() -> Path:
    """The folder of real volumes; tests that need it are skipped, and say so, where it is not at hand."""
    folder = os.environ.get("MEDCALIB_REAL_DATA")
    if not folder:
        pytest.skip("set MEDCALIB_REAL_DATA to the folder of real volumes to run this test")
    path = (REPOSITORY / folder).resolve()
    assert path.is_dir(), f"MEDCALIB_REAL_DATA={folder} is no folder"
    return path


@pytest.fixture
def volume(tmp_path: Path) -> Callable[..., Path]:
    """Write an array as NIfTI: volume("images/a.nii.gz", array, affine)."""

    def write(name: str, array: np.ndarray, affine: np.ndarray = LPS) -> Path:
        path = tmp_path / name
        write_volume(path, array, affine)
        return path

    return write


def smooth_case(
    seed: int = 0, classes: int = 4, shape: tuple[int, ...] = (20, 24, 10), sharpness: float = 3.0
) -> tuple[torch.Tensor, torch.Tensor]:
    """probs (C, *S) float32 of smooth random fields and labels (*S) uint8 drawn from them: calibrated."""
    rng = np.random.default_rng(seed)
    from scipy.ndimage import gaussian_filter

    fields = np.stack([gaussian_filter(rng.standard_normal(shape), 2.0) for _ in range(classes)])
    logits = torch.from_numpy(fields / fields.std() * sharpness)
    probs = logits.softmax(0)
    drawn = (probs.cumsum(0) < torch.from_numpy(rng.random(shape))).sum(0).clamp_max(classes - 1)
    return probs.float(), drawn.to(torch.uint8)
