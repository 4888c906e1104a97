"""Training batches without a dataset, of any size and number of classes, for measuring steps."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import interpolate

from medcalib.config import RunConfig
from medcalib.errors import ConfigError

BLOB = 8  # voxels along an edge of the blocks that labels are made of
_PREPARED = 2  # batches that take turns


@dataclass(frozen=True)
class Synthetic:
    """Size of a batch: `patch` voxels, `classes` with the background, `batch` patches of `channels` channels."""

    patch: tuple[int, int, int]
    classes: int = 4
    batch: int = 2
    channels: int = 1

    def overrides(self) -> list[str]:
        """What it changes in any config."""
        names = ["background: 0", *(f"class{number}: {number}" for number in range(1, self.classes))]
        return [
            f"data.labels={{{', '.join(names)}}}",
            "data.convention=null",
            "data.composites={}",
            f"train.patch_size={list(self.patch)}",
            f"train.batch_size={self.batch}",
        ]


def chosen(patch: str | None, **sizes: int | None) -> Synthetic | None:
    """From options of the command line, those not given being None. Raises `ConfigError`."""
    given = {name: size for name, size in sizes.items() if size is not None}
    if patch is None:
        if given:
            listed = ", ".join(f"--{name}" for name in given)
            raise ConfigError(f"{listed}: of made-up batches; name their patch with --synthetic 128x128x128")
        return None
    if not re.fullmatch(r"[1-9]\d*(x[1-9]\d*){2}", patch):
        raise ConfigError(f"--synthetic: expected three sizes of a patch, as in 128x128x128, got {patch!r}")
    x, y, z = map(int, patch.split("x"))
    return Synthetic((x, y, z), **given)


def synthetic_batches(config: RunConfig, channels: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Images (B, M, *patch) float32 and labels (B, *patch) uint8 without end, in pinned memory where there is CUDA.

    Labels are blocks of random classes, so that few voxels are at a boundary, as in a segmentation; an image is its
    label and noise.
    """
    train, classes = config.train, config.num_classes
    generator = torch.Generator().manual_seed(train.seed)
    x, y, z = train.patch_size
    coarse = [-(-size // BLOB) for size in (x, y, z)]
    prepared = []
    for _ in range(_PREPARED):
        blocks = torch.randint(0, classes, (train.batch_size, 1, *coarse), generator=generator).float()
        labels = interpolate(blocks, scale_factor=BLOB)[..., :x, :y, :z]
        noise = torch.randn(train.batch_size, channels, *train.patch_size, generator=generator)
        pair = noise + labels / classes, labels[:, 0].to(torch.uint8).contiguous()
        prepared.append(tuple(part.pin_memory() for part in pair) if torch.cuda.is_available() else pair)
    while True:
        for images, labels in prepared:
            yield images, labels
