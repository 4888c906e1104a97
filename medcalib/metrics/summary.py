"""From case scores to `scores.json`: pooled, mean over cases, intervals over patients. Absent is null."""

from __future__ import annotations

from collections.abc import Sequence
from functools import reduce
from itertools import pairwise
from operator import add
from typing import Any

import numpy as np
import torch

from medcalib.metrics.calibration import Edges
from medcalib.metrics.case import CaseScores
from medcalib.metrics.definitions import DEFINITIONS
from medcalib.metrics.intervals import Interval, of_ece
from medcalib.metrics.means import mean_over_cases
from medcalib.metrics.numbers import CASE_KEYS, case_numbers, overlap_numbers, region_numbers
from medcalib.metrics.overlap import OverlapCounts
from medcalib.metrics.protocols import protocol_mean, protocol_text, shown
from medcalib.metrics.regions import MASK_TEXT, REGION_TEXT

__all__ = ["summarize"]

Numbers = dict[str, Any]


def summarize(
    cases: Sequence[CaseScores],
    *,
    bins: int = 15,
    edges: Edges = "right",
    expected: int,
    refused: Sequence[Numbers],
) -> Numbers:
    """The content of `scores.json` (see the README); `cases` may be empty.

    Raises ValueError for cases whose channels, regions or widths in mm differ: their numbers cannot stand in one table.
    `expected` is how many cases there should be, `refused` those that were not scored: case, reason, message.
    """
    ordered = sorted(cases, key=lambda case: case.case_id)
    _check_alike(ordered)
    per_case = {case.case_id: case_numbers(case, bins, edges) for case in ordered}
    names = list(ordered[0].regions) if ordered else []
    return {
        "n_expected": expected,
        "n_scored": len(ordered),
        "refused": list(refused),
        "settings": {"bins": bins, "edges": edges, **_settings(ordered), "definitions": DEFINITIONS},
        "pooled": {name: _pooled(ordered, name, bins, edges) for name in names},
        "pooled_overlap": _pooled_overlap(ordered) if ordered else {},
        "mean": _means(ordered, per_case) if ordered else {},
        "protocols": _protocols(ordered),
        "cases": per_case,
    }


def _check_alike(cases: Sequence[CaseScores]) -> None:
    for before, case in pairwise(cases):
        if before.case_id == case.case_id:
            raise ValueError(f"case {case.case_id} is given twice; give each case once")
    for case in cases[1:]:
        for what in ("channels", "binary", "settings"):
            if getattr(case, what) != getattr(cases[0], what):
                told = f"{getattr(case, what)} instead of {getattr(cases[0], what)}"
                raise ValueError(f"{case.case_id} differs from {cases[0].case_id} in {what}: {told}; score both alike")
        if list(case.regions) != list(cases[0].regions):
            told = f"{', '.join(case.regions)} instead of {', '.join(cases[0].regions)}"
            raise ValueError(f"{case.case_id} differs from {cases[0].case_id} in regions: {told}; score both alike")


def _settings(cases: Sequence[CaseScores]) -> Numbers:
    if not cases:
        return {"regions": {}, "classes": [], "composites": []}
    first = cases[0]
    return {
        "regions": {name: REGION_TEXT.get(name, MASK_TEXT) for name in first.regions},
        "classes": list(first.channels[: first.num_classes]),
        "composites": list(first.channels[first.num_classes :]),
        "independent_channels": first.binary,
        **first.settings,
    }


def _pooled(cases: Sequence[CaseScores], region: str, bins: int, edges: Edges) -> Numbers:
    scores = [case.regions[region] for case in cases]
    numbers = region_numbers(reduce(add, scores), cases[0].channels, bins, edges, binary=cases[0].binary)
    interval = _pooled_interval(cases, region, bins, edges)
    return numbers | {"ece_low": interval.low, "ece_high": interval.high}


def _pooled_interval(cases: Sequence[CaseScores], region: str, bins: int, edges: Edges) -> Interval:
    patients = sorted({case.patient_id for case in cases})
    gaps, voxels = np.zeros((len(patients), bins)), np.zeros((len(patients), bins))
    for case in cases:
        curve = case.regions[region].calibration.reliability(0, bins=bins, edges=edges)
        gaps[patients.index(case.patient_id)] += (curve.confidence - curve.accuracy).numpy()
        voxels[patients.index(case.patient_id)] += curve.n.numpy()
    return of_ece(gaps, voxels) if voxels.any() else Interval(None, None)


def _pooled_overlap(cases: Sequence[CaseScores]) -> Numbers:
    """Overlap of the voxels of all cases together; a channel counts in the cases that label it."""
    total = OverlapCounts.zeros(len(cases[0].channels))
    for case in cases:
        known = torch.tensor(case.labelled or [True] * len(case.channels)).long()
        total += OverlapCounts(*(table * known for table in vars(case.overlap).values()))
    return overlap_numbers(total, cases[0].channels, [True] * len(cases[0].channels))


def _means(cases: Sequence[CaseScores], per_case: Numbers) -> Numbers:
    """Mean over cases of every number, by region; overlap, distances and volumes by channel."""
    found = mean_over_cases(
        [_averaged(per_case[c.case_id], c.num_classes) for c in cases], [c.patient_id for c in cases]
    )
    return {**found.pop("regions"), **found}


def _averaged(numbers: Numbers, num_classes: int) -> Numbers:
    """The numbers of a case of which a mean is a score: no voxel counts, no interval limits."""
    tree: Numbers = {key: dict(numbers[key]) for key in CASE_KEYS}
    for key in ("dice", "surface_dice"):
        average = _average(list(tree[key].values())[: num_classes - 1])
        tree[key].setdefault("foreground", average)  # a class of that name keeps its own value
    for name, volume in tree["volume_ml"].items():
        tree["volume_ml"][name] = {key: v for key, v in volume.items() if not key.endswith(("_low", "_high"))}
    tree["regions"] = {
        region: {key: value for key, value in found.items() if key not in ("voxels", "zero_probability")}
        for region, found in numbers["regions"].items()
    }
    return tree


def _average(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else None


def _protocols(cases: Sequence[CaseScores]) -> Numbers:
    """Published protocols: their mean, the numbers of each case, and what they are."""
    names = dict.fromkeys(name for case in cases for name in case.protocols)
    return {
        name: {
            "mean": protocol_mean(name, [dict(case.protocols.get(name, {})) for case in cases]),
            "cases": {case.case_id: shown(dict(case.protocols.get(name, {}))) for case in cases},
            "definition": protocol_text(name),
        }
        for name in names
    }
