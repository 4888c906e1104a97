"""Tests of what runs on a CUDA device; without one they are skipped, and say so. `make test-gpu` runs them alone."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from tiny import TINY

from medcalib.config import RunConfig, load
from medcalib.config.bundled import bundled
from medcalib.data.phantom import write_dataset


@pytest.fixture(autouse=True)
def _needs_a_device() -> None:
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device")


@pytest.fixture(scope="session")
def hearts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six small phantom patients in the ACDC layout."""
    return write_dataset("acdc", 6, 0, tmp_path_factory.mktemp("phantom") / "data", shape=(28, 28, 6))


@pytest.fixture
def on_cuda(hearts: Path) -> RunConfig:
    """Three epochs of three steps on the device."""
    return load(bundled()["phantom"], data=str(hearts), overrides=(*TINY, "train.device=cuda"))
