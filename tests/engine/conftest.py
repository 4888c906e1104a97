"""A tiny phantom dataset and a config that trains on it in seconds."""

from __future__ import annotations

from pathlib import Path

import pytest
from tiny import TINY

from medcalib.config import RunConfig, load
from medcalib.config.bundled import bundled
from medcalib.data.phantom import write_dataset


@pytest.fixture(scope="session")
def phantom(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six patients in the ACDC layout, 28 x 28 x 6 voxels."""
    return write_dataset("acdc", 6, 0, tmp_path_factory.mktemp("phantom") / "data", shape=(28, 28, 6))


@pytest.fixture
def tiny(phantom: Path) -> RunConfig:
    """Three epochs of three steps."""
    return load(bundled()["phantom"], data=str(phantom), overrides=TINY)
