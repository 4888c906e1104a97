"""What a scorer counts, and the integer tables into which every implementation of it adds."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from numbers import Integral

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from medcalib.ops._score_cells import NUM_CELLS
from medcalib.options import check_option

SUM_NAMES = ("brier", "nll", "posterior_l1")
Arrays = Mapping[str, NDArray[np.int64]]


@dataclass(frozen=True)
class ScoreTables:
    """Integer tables of R regions: K channels are the top label, then C classes, then composites.

    `n`, `correct`, `conf_hi`, `conf_lo` (R, K, NUM_CELLS); `truth_hi`, `truth_lo` the same for a known
    posterior in place of the labels; `square` (R, K, 2) limbs of the summed p^2 of each channel; `confusion`
    (R, C, C) reference x prediction; `sums` (R, len(SUM_NAMES), 2) limbs; `zero_probability` (R,) voxels whose true
    class has probability 0. All int64.
    """

    n: Tensor
    correct: Tensor
    conf_hi: Tensor
    conf_lo: Tensor
    square: Tensor
    confusion: Tensor
    sums: Tensor
    zero_probability: Tensor
    truth_hi: Tensor | None = None
    truth_lo: Tensor | None = None

    @classmethod
    def of(cls, arrays: Arrays) -> ScoreTables:
        """Tensors of their own, so that a scorer can go on."""
        return cls(**{name: torch.from_numpy(array.copy()) for name, array in arrays.items()})


@dataclass(frozen=True)
class ScoreSpec:
    """What a scorer counts; see `medcalib.ops.scoring.Scorer`."""

    num_classes: int
    num_regions: int
    composites: tuple[tuple[int, ...], ...] = ()
    groups: tuple[tuple[int, ...], ...] | None = None
    from_logits: bool = False
    has_posterior: bool = False
    classwise: bool = True

    def __post_init__(self) -> None:
        for name, least in (("num_classes", 1), ("num_regions", 1)):
            check_option(name, getattr(self, name), int)
            if getattr(self, name) < least:
                raise ValueError(f"{name} must be at least {least}, got {getattr(self, name)}")
        if self.groups is not None and (self.composites or self.has_posterior):
            raise ValueError("groups are channels of their own: they go with neither composites nor a known posterior")
        if self.groups == ():
            raise ValueError("groups must name the labels of at least one channel, got none")
        for members in (*self.composites, *(self.groups or ())):
            if not all(isinstance(member, Integral) for member in members):
                raise ValueError(f"a group must name classes by their numbers, such as (1, 2), got {members}")
            if not members or len(set(members)) < len(members):
                raise ValueError(f"a group must name at least one class, each once, got {members}")
            if min(members) < 0 or max(members) >= self.num_classes:
                raise ValueError(f"a group must name classes in 0..{self.num_classes - 1}, got {members}")

    @property
    def channels(self) -> int:
        """Rows of the probabilities that `add` takes."""
        return self.num_classes if self.groups is None else len(self.groups)

    def zeros(self) -> dict[str, NDArray[np.int64]]:
        """Empty tables, by the names of the fields of ScoreTables."""
        regions, tables = self.num_regions, 1 + self.channels + len(self.composites)
        names = ["n", "correct", "conf_hi", "conf_lo", *(("truth_hi", "truth_lo") if self.has_posterior else ())]
        shapes: dict[str, tuple[int, ...]] = dict.fromkeys(names, (regions, tables, NUM_CELLS))
        shapes["square"] = (regions, tables, 2)
        shapes["confusion"] = (regions, self.num_classes, self.num_classes)
        shapes["sums"] = (regions, len(SUM_NAMES), 2)
        shapes["zero_probability"] = (regions,)
        return {name: np.zeros(shape, np.int64) for name, shape in shapes.items()}


def bad_values(low: float, high: float, from_logits: bool) -> ValueError:
    """What was expected, what came, and the fix. `low` and `high` are those of the voxels that count."""
    if from_logits:
        return ValueError(
            f"logits must be finite at every voxel that counts (minus infinity may stand for a probability of 0, but "
            f"not at all classes), got NaN or infinity among {low!r}..{high!r}; leave these voxels out of the regions"
        )
    return ValueError(
        f"probabilities must lie in [0, 1] at every voxel that counts, got {low!r}..{high!r}; clamp what "
        "rounding leaves beyond, and pass from_logits=True for logits"
    )
