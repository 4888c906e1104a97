"""A tiny phantom dataset and a config that trains on it in seconds."""

from __future__ import annotations

from pathlib import Path

import pytest

from medcalib.config import RunConfig, load
from medcalib.config.bundled import bundled
from medcalib.data.phantom import write_dataset

TINY = (
    "model.channels=[4, 8]",
    "model.strides=[[2, 2, 1]]",
    "train.patch_size=[16, 16, 4]",
    "train.batch_size=2",
    "train.epochs=3",
    "train.steps_per_epoch=3",
    "train.validate_every=2",
    "split.folds=3",
)


@pytest.fixture(scope="session")
def phantom(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six patients in the ACDC layout, 28 x 28 x 6 voxels."""
    return write_dataset("acdc", 6, 0, tmp_path_factory.mktemp("phantom") / "data", shape=(28, 28, 6))


@pytest.fixture
def tiny(phantom: Path) -> RunConfig:
    """Three epochs of three steps."""
    return load(bundled()["phantom"], data=str(phantom), overrides=TINY)


def changed(config: RunConfig, **train: object) -> RunConfig:
    """The config with other training options."""
    return config.model_copy(update={"train": config.train.model_copy(update=train)})
