"""Rows against a reference: difference, its interval over patients, and a test."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medcalib.metrics.over_seeds import Contrast, Estimate
from medcalib.metrics.signed_rank import signed_rank
from medcalib.report.comparison.plan import NONE
from medcalib.report.comparison.study import RowKey, Study

Array = NDArray[np.float64]
Numbers = dict[str, Any]


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


def difference(pair: Pair, estimate: Estimate, by_patient: Array) -> Numbers:
    """The numbers of one comparison. `by_patient` (models, P): mean of the values of a patient's cases."""
    p, patients = None, 0
    if pair.of:
        first, second = (by_patient[list(models)].mean(0) for models in (pair.less, pair.of))
        p, patients = signed_rank(first, second)
    return {
        "difference": estimate.value,
        "low": estimate.low,
        "high": estimate.high,
        "p": p,
        "n_seeds": len(pair.of),
        "n_patients": patients,
    }
