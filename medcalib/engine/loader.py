"""Preprocessed cases, kept in memory by MONAI or on disk, and seeded batches of patches."""

from __future__ import annotations

import logging
import math
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from monai.data import CacheDataset
from monai.transforms import Transform
from torch import Tensor
from torch.utils.data import DataLoader

from medcalib import distributed
from medcalib.config import RunConfig
from medcalib.data.cache import THREADS, DiskCached
from medcalib.data.case import Case
from medcalib.data.intensity import INTENSITIES
from medcalib.data.load import load_case
from medcalib.data.transforms import Item, PatchSampler, Preprocess
from medcalib.engine.shared_memory import batch_bytes, require_shared_memory
from medcalib.engine.signals import obey_parent_only
from medcalib.engine.surroundings import cores
from medcalib.errors import ConfigError, DataError

log = logging.getLogger(__name__)
Draw = tuple[int, int]  # index of the case, seed of the patch


class LoadPreprocessed(Transform):  # type: ignore[misc]
    """Case -> preprocessed item: the deterministic part, which is cached."""

    def __init__(self, config: RunConfig) -> None:
        self.label_map = config.data.label_map
        self.nonfinite = config.data.nonfinite
        self.preprocess = preprocess_of(config)

    def __call__(self, case: Case) -> Item:
        return self.preprocess(load_case(case, self.label_map, nonfinite=self.nonfinite))

    @staticmethod
    def settings(config: RunConfig) -> dict[str, Any]:
        """All of a config that an item depends on."""
        data = config.data.model_dump(mode="json", include={"labels", "ignore_label", "nonfinite"})
        return {
            "data": data | {"labels": list(data["labels"].values())},
            "of": config.preprocess.model_dump(mode="json"),
        }


class Uncached(torch.utils.data.Dataset[Item]):
    """Items read anew each time. MONAI's own would turn a refusal into a RuntimeError."""

    def __init__(self, cases: Sequence[Case], transform: LoadPreprocessed) -> None:
        self.cases, self.transform = list(cases), transform

    def __len__(self) -> int:
        return len(self.cases)

    def __getitem__(self, index: int) -> Item:
        return self.transform(self.cases[index])


def preprocess_of(config: RunConfig) -> Preprocess:
    """The deterministic preprocessing that a config asks for."""
    chosen = config.preprocess
    normalize = INTENSITIES[chosen.intensity.name](**chosen.intensity.options())
    return Preprocess(chosen.orientation, chosen.spacing_mm, normalize)


def preprocessed(config: RunConfig, cases: Sequence[Case]) -> Any:
    """A dataset of preprocessed items, read once and kept in memory unless the config says otherwise.

    Raises the `DataError` of the first case that is refused, and `ConfigError` for a cache folder of no use.
    """
    transform = LoadPreprocessed(config)
    if config.train.cache == "none":
        return Uncached(cases, transform)
    if config.train.cache == "disk":
        if config.train.cache_dir is None:
            raise ConfigError("train.cache: disk needs a folder; name it with --set train.cache_dir=DIR")
        return DiskCached(cases, transform, Path(config.train.cache_dir), transform.settings(config))
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return CacheDataset(list(cases), transform, num_workers=THREADS, progress=False, copy_cache=False)
    except RuntimeError as error:
        raise data_error_behind(error) from error


def data_error_behind(error: BaseException) -> BaseException:
    """MONAI wraps an error of a transform; the refusal inside is what the user needs."""
    inner: BaseException | None = error
    while inner is not None and not isinstance(inner, DataError):
        inner = inner.__cause__
    return inner or error


class PatchDataset(torch.utils.data.Dataset[tuple[Tensor, Tensor]]):
    """Patches by (case, seed): what is drawn depends on nothing else."""

    def __init__(self, items: Any, sampler: PatchSampler, channels: int) -> None:
        self.items, self.sampler, self.channels = items, sampler, channels

    def __getitem__(self, draw: Draw) -> tuple[Tensor, Tensor]:
        index, seed = draw
        item = self.items[index]
        if item["image"].shape[0] != self.channels:
            raise DataError(
                "channel_count",
                f"a training case has {item['image'].shape[0]} channels, the validation cases have {self.channels}; "
                "`medcalib check` names it",
            )
        return self.sampler(item, seed)


class EpochBatches:
    """This rank's batches of one epoch: a seeded order of the cases, and a seed for every patch.

    One sequence of patches is drawn for all ranks, `ranks` x `accumulate` batches for each step, and dealt out: ranks
    never share a patch, and a step sees the same patches however they are spread over ranks and accumulated batches.
    """

    def __init__(
        self,
        cases: int,
        batch_size: int,
        steps: int | None,
        seed: int,
        *,
        accumulate: int = 1,
        rank: int = 0,
        ranks: int = 1,
    ) -> None:
        self.cases, self.batch_size, self.seed = cases, batch_size, seed
        self.accumulate, self.rank, self.ranks = accumulate, rank, ranks
        self.steps = steps or math.ceil(cases / (batch_size * accumulate * ranks))
        self.epoch = self.first_step = 0

    def __len__(self) -> int:
        return (self.steps - self.first_step) * self.accumulate

    def begin(self, epoch: int, first_step: int = 0) -> None:
        """What the next iteration yields: the epoch's batches from one of its steps on."""
        self.epoch, self.first_step = epoch, first_step

    def __iter__(self) -> Iterator[list[Draw]]:
        rng = np.random.default_rng([self.seed, self.epoch])
        per_step = self.batch_size * self.accumulate * self.ranks
        wanted = self.steps * per_step
        rounds = math.ceil(wanted / self.cases)
        order = np.concatenate([rng.permutation(self.cases) for _ in range(rounds)])[:wanted]
        seeds = rng.integers(0, 2**32, wanted)
        draws = list(zip(order.tolist(), seeds.tolist(), strict=True))
        own = range(self.first_step * per_step + self.rank * self.batch_size, wanted, self.batch_size * self.ranks)
        for start in own:
            yield draws[start : start + self.batch_size]


def training_loader(config: RunConfig, cases: Sequence[Case], channels: int) -> tuple[DataLoader[Any], EpochBatches]:
    """Loader of (images (B, M, *patch), labels (B, *patch)) and the batches, which the loop tells where to begin.

    Raises `ConfigError` where shared memory is too small for the workers' batches.
    """
    train = config.train
    workers = _workers(train.workers)
    require_shared_memory(workers, batch_bytes(train.batch_size, channels, train.patch_size))
    sampler = PatchSampler(train.patch_size, train.foreground_share, **dict(config.augment))
    batches = EpochBatches(
        len(cases),
        train.batch_size,
        train.steps_per_epoch,
        train.seed,
        accumulate=train.accumulate,
        rank=distributed.rank(),
        ranks=distributed.ranks(),
    )
    loader: DataLoader[Any] = DataLoader(
        PatchDataset(preprocessed(config, cases), sampler, channels),
        batch_sampler=batches,
        num_workers=workers,
        persistent_workers=workers > 0,
        pin_memory=torch.cuda.is_available(),
        worker_init_fn=obey_parent_only,
        # its own, else starting workers draws from the generator of dropout, and a resumed run draws once more
        generator=torch.Generator().manual_seed(train.seed),
    )
    return loader, batches


def _workers(asked: int) -> int:
    """No more than there are cores: others would only wait. Their number changes no result."""
    usable = min(asked, cores())
    if usable < asked and distributed.is_main():
        log.info("%d loader workers in place of %d (`train.workers`): as many as there are cores", usable, asked)
    return usable


def validation_items(config: RunConfig, cases: Sequence[Case]) -> tuple[Any, int]:
    """This rank's validation items, every `ranks`-th from its own on, and the number of channels of the images."""
    own = cases[distributed.rank() :: distributed.ranks()]
    items = preprocessed(config, own)
    first = (items if own else preprocessed(config, cases[:1]))[0]
    return items, int(first["image"].shape[0])
