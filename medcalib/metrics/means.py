"""Means over cases of nested numbers, with intervals over patients."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from medcalib.metrics.intervals import of_means

Numbers = dict[str, Any]
Path = tuple[str, ...]


def mean_over_cases(cases: Sequence[Numbers], patients: Sequence[str]) -> Numbers:
    """The tree of `{value, low, high, n}` of every number: mean over the cases that have it, n of them.

    Every case counts alike; intervals come from patients resampled, since cases of one patient are alike.
    """
    leaves = [dict(_leaves(case)) for case in cases]
    paths = list(dict.fromkeys(path for found in leaves for path in found))
    owners = sorted(set(patients))
    place = [owners.index(patient) for patient in patients]
    sums, counts = (np.zeros((len(paths), len(owners))) for _ in range(2))
    for found, owner in zip(leaves, place, strict=True):
        for row, path in enumerate(paths):
            value = found.get(path)
            if value is not None:
                sums[row, owner] += value
                counts[row, owner] += 1
    tree: Numbers = {}
    for row, (path, interval) in enumerate(zip(paths, of_means(sums, counts), strict=True)):
        n = int(counts[row].sum())
        value = float(sums[row].sum() / n) if n else None
        at = tree
        for name in path[:-1]:
            at = at.setdefault(name, {})
        at[path[-1]] = {"value": value, "low": interval.low, "high": interval.high, "n": n}
    return tree


def _leaves(numbers: Numbers, path: Path = ()) -> Iterator[tuple[Path, float | None]]:
    for key, value in numbers.items():
        if isinstance(value, dict):
            yield from _leaves(value, (*path, key))
        else:
            yield (*path, key), None if value is None else float(value)
