"""What the tests of the scorer share: implementations, nasty probabilities, comparisons."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from medcalib.ops import backend
from medcalib.ops.scoring import Scorer, ScoreTables, from_limbs

ISAS = backend.instruction_sets()
IMPLEMENTATIONS = ["reference", *ISAS]
EDGES = np.float32(np.arange(301) / 300)
TINY = np.float32(2.0) ** -np.arange(1, 150, dtype=np.float32)  # to the smallest subnormal
NASTY = np.unique(
    np.concatenate(
        [EDGES, np.nextafter(EDGES[1:], np.float32(0)), np.nextafter(EDGES[:-1], np.float32(1)), TINY, 1 - TINY]
    ).astype(np.float32)
)
Slab = Sequence[Tensor]


@contextmanager
def running(name: str, threads: int = 2) -> Iterator[None]:
    """Within it new scorers run in numpy ("reference") or with an instruction set of the native library."""
    before = torch.get_num_threads()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MEDCALIB_BACKEND", "reference" if name == "reference" else "native")
        patch.setenv("MEDCALIB_ISA", "" if name == "reference" else name)
        torch.set_num_threads(threads)
        try:
            yield
        finally:
            torch.set_num_threads(before)


def counted(
    name: str, slabs: Sequence[Slab], classes: int, regions: int, threads: int = 2, **options: Any
) -> ScoreTables:
    """The tables of a scorer that runs as named."""
    with running(name, threads):
        scorer = Scorer(classes, regions, **options)
        for slab in slabs:
            scorer.add(*slab)
        return scorer.tables()


def same(a: ScoreTables, b: ScoreTables, but: Sequence[str] = ()) -> bool:
    """Whether all tables but some are the same to the last bit."""
    pairs = [(getattr(a, name), getattr(b, name)) for name in vars(a) if name not in but]
    return all((x is None and y is None) or torch.equal(x, y) for x, y in pairs)


def value(pairs: Tensor) -> Tensor:
    """float64 of limbs (..., 2)."""
    return from_limbs(pairs[..., 0], pairs[..., 1])


def random_slab(
    seed: int, classes: int, voxels: int, regions: int, dtype: torch.dtype = torch.float32, sharpness: float = 6.0
) -> tuple[Tensor, Tensor, Tensor]:
    """Logits (C, n) of runs and noise, labels, regions of runs, of which about a third of the voxels is in none."""
    rng = np.random.default_rng(seed)
    runs = np.repeat(rng.standard_normal((classes, voxels // 40 + 1)), 40, axis=1)[:, :voxels]
    logits = sharpness * (runs + 0.2 * rng.standard_normal((classes, voxels)))
    labels = np.where(rng.random(voxels) < 0.9, logits.argmax(0), rng.integers(0, classes, voxels))
    holds = np.repeat(rng.random((regions, voxels // 100 + 1)) < 0.3, 100, axis=1)[:, :voxels]
    return torch.from_numpy(logits).to(dtype), torch.from_numpy(labels), torch.from_numpy(holds)


def probabilities(logits: Tensor) -> Tensor:
    """Softmax in float64, rounded to the dtype."""
    return logits.double().softmax(0).to(logits.dtype)
