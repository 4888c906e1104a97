"""Rows against a reference, over the seeds that both have."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from medcalib.metrics.over_seeds import Contrast
from medcalib.report.comparison.plan import NONE
from medcalib.report.comparison.study import RowKey, Study


@dataclass(frozen=True)
class Pair:
    """A row against the network of a reference method, over the seeds that both have."""

    reference: str
    row: RowKey
    of: tuple[int, ...]
    less: tuple[int, ...]

    @property
    def contrast(self) -> Contrast:
        """Row minus reference; of nothing where no seed is shared."""
        return Contrast(self.of, self.less)


def pairs_of(study: Study, models: Mapping[RowKey, tuple[int, ...]]) -> list[Pair]:
    """Every row against every reference; `models`: those with a defined value, by row."""
    found = []
    for reference in study.plan.references:
        theirs = {study.models[k].seed: k for k in models[reference, NONE]}
        for key in study.row_keys:
            if key == (reference, NONE):
                continue
            mine = {study.models[k].seed: k for k in models[key]}
            shared = [seed for seed in study.plan.seeds if seed in mine and seed in theirs]
            found.append(Pair(reference, key, tuple(mine[s] for s in shared), tuple(theirs[s] for s in shared)))
    return found
