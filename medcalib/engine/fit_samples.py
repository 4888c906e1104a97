"""What a calibrator is fitted on: a seeded sample of each case, of voxels, or of blocks where neighbors matter."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product

import numpy as np
import torch
from torch import Tensor

from medcalib.calibrators import Calibrator
from medcalib.data.case import Case
from medcalib.data.labels import IGNORE
from medcalib.errors import ConfigError
from medcalib.metrics.regions import BOUNDARY_MM, REGIONS, Voxels, near_surface
from medcalib.options import suggestion

__all__ = ["Sampling"]

VOXELS_PER_CASE = 100_000
BLOCK = 24  # voxels along an edge: large enough to hold a surface, small enough for several of them a case


@dataclass(frozen=True)
class FitVolume:
    """A held-out case: logits (C, i, j, k) float32, labels (i, j, k) uint8 with 255 ignored, voxel sizes.

    `images` (M, i, j, k) are normalized intensities, where the method wants them.
    """

    case: Case
    logits: Tensor
    labels: Tensor
    spacing_mm: tuple[float, float, float]
    images: Tensor | None = None


@dataclass(frozen=True)
class Sampling:
    """How much of each case is used: at most `voxels` (None: all) of a `region`, drawn with `seed` and the case id.

    Without a seed it is the run's, or 0.
    """

    voxels: int | None = VOXELS_PER_CASE
    region: str = "all"
    seed: int | None = None

    def __post_init__(self) -> None:
        if self.region not in REGIONS:
            raise ConfigError(f"unknown region {self.region!r}; {suggestion(self.region, list(REGIONS))}")
        if self.voxels is not None and self.voxels < 1:
            raise ConfigError(f"the voxels of a case must be 1 or more, got {self.voxels}")


@dataclass(frozen=True)
class Sample:
    """Blocks of a case: logits (1, C, *S), labels and mask (1, *S), images (1, M, *S); loose voxels are one block."""

    case: Case
    logits: tuple[Tensor, ...]
    labels: tuple[Tensor, ...]
    masks: tuple[Tensor, ...]
    images: tuple[Tensor, ...] | None

    @property
    def voxels(self) -> int:
        """How many are used."""
        return sum(int(mask.sum()) for mask in self.masks)


def sample_of(volume: FitVolume, calibrator: Calibrator, sampling: Sampling) -> Sample:
    """What `calibrator` is fitted on of a case. It depends on the case and the seed, not on other cases."""
    usable = _usable(volume, sampling.region)
    limit = volume.labels.numel() if sampling.voxels is None else sampling.voxels
    digest = hashlib.sha256(f"{sampling.seed or 0}:{volume.case.id}".encode()).digest()
    generator = torch.Generator().manual_seed(int.from_bytes(digest[:7], "big"))
    if calibrator.reach == 0:
        at = usable.flatten().nonzero()[:, 0]
        at = at[torch.randperm(len(at), generator=generator)[:limit]].sort().values
        logits, labels = volume.logits.flatten(1)[:, at][None], volume.labels.flatten()[at][None]
        return Sample(volume.case, (logits,), (labels,), (torch.ones_like(labels, dtype=torch.bool),), None)
    return _blocks(volume, calibrator, usable, limit, generator)


def _usable(volume: FitVolume, region: str) -> Tensor:
    """Voxels (i, j, k) of the region that have a label."""
    labels = volume.labels
    seen = torch.zeros_like(labels, dtype=torch.bool)
    near = near_surface(labels, volume.spacing_mm, BOUNDARY_MM, IGNORE) if region == "boundary" else seen
    predicted = volume.logits.argmax(0) > 0 if region in ("foreground", "pred_foreground") else seen
    inside: Tensor = REGIONS[region](Voxels(labels, predicted, near))
    return inside & (labels != IGNORE)


def _blocks(
    volume: FitVolume, calibrator: Calibrator, usable: Tensor, limit: int, generator: torch.Generator
) -> Sample:
    """Blocks in a drawn order until they hold `limit` voxels, each with the neighbors that its results depend on.

    A volume that is no larger, or that the method sees as a whole, is taken as it is.
    """
    shape = tuple(usable.shape)
    if int(usable.sum()) <= limit or calibrator.sees_all:
        cores = [tuple(slice(0, n) for n in shape)]
    else:
        cores = list(product(*([slice(a, min(a + BLOCK, n)) for a in range(0, n, BLOCK)] for n in shape)))
        cores = [cores[k] for k in torch.randperm(len(cores), generator=generator).tolist()]
    reach = np.broadcast_to(calibrator.reach, 3)
    found: list[tuple[Tensor, ...]] = []
    used = 0
    for core in cores:
        inside = int(usable[core].sum())
        if not inside:
            continue
        seen = tuple(slice(max(s.start - r, 0), min(s.stop + r, n)) for s, r, n in zip(core, reach, shape, strict=True))
        mask = torch.zeros_like(usable)[seen]
        own = tuple(slice(s.start - o.start, s.stop - o.start) for s, o in zip(core, seen, strict=True))
        mask[own] = usable[core]
        values = [volume.logits[:, *seen].clone(), volume.labels[seen].clone(), mask]
        if calibrator.image_channels and volume.images is not None:
            values.append(volume.images[:, *seen].clone())
        found.append(tuple(value[None] for value in values))
        used += inside
        if used >= limit:
            break
    columns = [tuple(column) for column in zip(*found, strict=True)] or [(), (), ()]
    return Sample(volume.case, columns[0], columns[1], columns[2], columns[3] if len(columns) == 4 else None)


def rows(samples: list[Sample]) -> Iterator[tuple[Sample, int]]:
    """Every block: its sample and its index there."""
    for sample in samples:
        for index in range(len(sample.logits)):
            yield sample, index
