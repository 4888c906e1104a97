"""Options that make the phantom config train in seconds."""

from __future__ import annotations

from medcalib.config import RunConfig

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

SHORTEST = (  # for the command line: two steps
    "model.channels=[4, 8]",
    "model.strides=[[2, 2, 1]]",
    "train.patch_size=[16, 16, 4]",
    "train.epochs=1",
    "train.steps_per_epoch=2",
    "split.folds=3",
)


def changed(config: RunConfig, **train: object) -> RunConfig:
    """The config with other training options."""
    return config.model_copy(update={"train": config.train.model_copy(update=train)})
