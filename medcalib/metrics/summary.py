"""From case scores to `scores.json`: pooled, mean over cases, intervals over patients. Absent is null."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import reduce
from operator import add
from typing import Any

import numpy as np

from medcalib.metrics.calibration import Edges
from medcalib.metrics.case import REGION_TEXT, CaseScores, RegionScores
from medcalib.metrics.intervals import Interval, of_ece, of_mean

Numbers = dict[str, Any]
DEFINITIONS = {
    "ece": "sum over bins of n_b/N |mean confidence - accuracy| of the top label",
    "classwise_ece": "the same for the probability of one class against its frequency",
    "ace_bins": "mean over non-empty bins of |mean confidence - accuracy| of the top label",
    "mce": "largest |mean confidence - accuracy| of a non-empty bin",
    "ece_equal_mass": "ECE over bins that hold nearly equal numbers of voxels",
    "brier": "mean over voxels of sum over classes of (p - q)^2",
    "nll": "mean over voxels of -log p of the true class, in nats",
    "gap": "mean confidence minus accuracy of the top label: above 0 is overconfident",
    "ece_true": "ECE with the known posterior in place of the sampled labels",
    "posterior_l1": "mean over voxels and classes of |p - known posterior|",
    "dice": "null where a class is absent from reference and prediction, 0 where it is in only one",
    "hd95_mm": "95th percentile of the surface distance; null where either mask is empty",
    "low, high": "95 % interval, BCa bootstrap over patients; null with fewer than 3 patients",
}


def summarize(
    cases: Sequence[CaseScores],
    *,
    bins: int = 15,
    edges: Edges = "right",
    expected: int,
    refused: Sequence[Numbers],
) -> Numbers:
    """The content of `scores.json` (see the README); `cases` may be empty."""
    ordered = sorted(cases, key=lambda case: case.case_id)
    names = list(ordered[0].regions) if ordered else []
    per_case = {case.case_id: _case_numbers(case, bins, edges) for case in ordered}
    return {
        "n_expected": expected,
        "n_scored": len(ordered),
        "refused": list(refused),
        "settings": {
            "bins": bins,
            "edges": edges,
            "regions": {name: REGION_TEXT[name] for name in names},
            "classes": list(ordered[0].channels[: ordered[0].num_classes]) if ordered else [],
            "composites": list(ordered[0].channels[ordered[0].num_classes :]) if ordered else [],
            "definitions": DEFINITIONS,
        },
        "pooled": {name: _pooled(ordered, name, bins, edges) for name in names},
        "mean": _means(ordered, per_case, names),
        "cases": per_case,
    }


def region_numbers(scores: RegionScores, channels: Sequence[str], bins: int, edges: Edges) -> Numbers:
    """Every score of one region, null where it is undefined."""
    counts, sums = scores.calibration, scores.sums
    curve = counts.reliability(0, bins=bins, edges=edges)
    voxels = counts.voxels()
    numbers: Numbers = {
        "ece": counts.ece(bins, edges),
        "classwise_ece": dict(zip(channels, counts.classwise_ece(bins, edges).tolist(), strict=True)),
        "ace_bins": counts.ace_bins(bins, edges),
        "mce": counts.mce(bins, edges),
        "ece_equal_mass": counts.ece_equal_mass(bins),
        "brier": sums.brier(),
        "nll": sums.nll(),
        "gap": float((curve.confidence - curve.accuracy).sum()) / voxels if voxels else math.nan,
        "zero_probability": sums.zero_probability,
        "voxels": voxels,
    }
    if counts.has_posterior:
        numbers |= {"ece_true": counts.ece(bins, edges, true=True), "posterior_l1": sums.posterior_l1()}
    cleaned: Numbers = _null(numbers)
    return cleaned


def _case_numbers(case: CaseScores, bins: int, edges: Edges) -> Numbers:
    labelled = case.labelled or (True,) * len(case.channels)
    dice = [value if known else math.nan for value, known in zip(case.overlap.dice().tolist(), labelled, strict=True)]
    distances = case.hd95_mm or (math.nan,) * len(case.channels)
    foreground = dict(zip(case.channels, dice, strict=True))
    numbers: Numbers = _null(
        {
            "patient_id": case.patient_id,
            "spacing_mm": list(case.spacing_mm),
            "dice": {k: v for k, v in foreground.items() if k != case.channels[0]},
            "hd95_mm": dict(list(zip(case.channels, distances, strict=True))[1:]),
        }
    )
    numbers["regions"] = {n: region_numbers(r, case.channels, bins, edges) for n, r in case.regions.items()}
    return numbers


def _pooled(cases: Sequence[CaseScores], region: str, bins: int, edges: Edges) -> Numbers:
    scores = [case.regions[region] for case in cases]
    numbers = region_numbers(reduce(add, scores), cases[0].channels, bins, edges)
    interval = _pooled_interval(cases, region, bins, edges)
    return numbers | {"ece_low": interval.low, "ece_high": interval.high}


def _pooled_interval(cases: Sequence[CaseScores], region: str, bins: int, edges: Edges) -> Interval:
    patients = sorted({case.patient_id for case in cases})
    gaps, voxels = np.zeros((len(patients), bins)), np.zeros((len(patients), bins))
    for case in cases:
        curve = case.regions[region].calibration.reliability(0, bins=bins, edges=edges)
        gaps[patients.index(case.patient_id)] += (curve.confidence - curve.accuracy).numpy()
        voxels[patients.index(case.patient_id)] += curve.n.numpy()
    return of_ece(gaps, voxels)


def _means(cases: Sequence[CaseScores], per_case: Numbers, regions: Sequence[str]) -> Numbers:
    """Mean over cases of each score, by region, and of Dice and HD95; `n` counts the cases where it is defined."""
    if not cases:
        return {}
    patients = [case.patient_id for case in cases]

    def mean_of(pick: Callable[[Numbers], float | None]) -> Numbers:
        return _mean([pick(per_case[case.case_id]) for case in cases], patients)

    result: Numbers = {}
    for region in regions:
        keys = dict.fromkeys(key for case in cases for key in per_case[case.case_id]["regions"][region])
        result[region] = {
            key: mean_of(lambda c, r=region, k=key: c["regions"][r].get(k))  # type: ignore[misc]
            for key in keys
            if key not in ("classwise_ece", "voxels", "zero_probability")
        }
        result[region]["classwise_ece"] = {
            name: mean_of(lambda c, r=region, n=name: c["regions"][r]["classwise_ece"][n])  # type: ignore[misc]
            for name in cases[0].channels
        }
    for key in ("dice", "hd95_mm"):
        result[key] = {name: mean_of(lambda c, k=key, n=name: c[k][n]) for name in cases[0].channels[1:]}  # type: ignore[misc]
    # a class of that name keeps its own value
    average = mean_of(lambda c: _average(list(c["dice"].values())[: cases[0].num_classes - 1]))
    result["dice"].setdefault("foreground", average)
    return result


def _mean(values: Sequence[float | None], patients: Sequence[str]) -> Numbers:
    known = [(value, patient) for value, patient in zip(values, patients, strict=True) if value is not None]
    if not known:
        return {"value": None, "low": None, "high": None, "n": 0}
    owners = sorted({patient for _, patient in known})
    sums, counts = np.zeros(len(owners)), np.zeros(len(owners))
    for value, patient in known:
        sums[owners.index(patient)] += value
        counts[owners.index(patient)] += 1
    interval = of_mean(sums, counts)
    return {
        "value": float(sums.sum() / counts.sum()),
        "low": interval.low,
        "high": interval.high,
        "n": len(known),
    }


def _average(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else None


def _null(value: Any) -> Any:
    """NaN and infinities become null, at any depth."""
    if isinstance(value, dict):
        return {key: _null(entry) for key, entry in value.items()}
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value
