"""Counts as the numbers of `scores.json`: nested by region and channel, null where undefined."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from torch import Tensor

from medcalib.metrics.brier_parts import brier_parts, classwise_brier
from medcalib.metrics.calibration import CalibrationCounts, Edges
from medcalib.metrics.case import CaseScores, RegionScores
from medcalib.metrics.error_overlap import uncertainty_error_overlap
from medcalib.metrics.overlap import OverlapCounts
from medcalib.metrics.qu_brats import qu_brats
from medcalib.metrics.selective import aurc, excess_aurc
from medcalib.metrics.squared import debiased_squared_error, rms_calibration_error
from medcalib.metrics.thresholded import thresholded_ece

Numbers = dict[str, Any]
OVERLAPS = ("dice", "iou", "precision", "recall")
CASE_KEYS = (*OVERLAPS, "hd95_mm", "surface_dice", "volume_ml")  # by channel; beside regions, so no region's name


def region_numbers(
    scores: RegionScores, channels: Sequence[str], bins: int, edges: Edges, *, binary: bool = False
) -> Numbers:
    """Every score of one region, null where it is undefined. `binary`: independent channels, without a top label."""
    counts, sums = scores.calibration, scores.sums
    numbers: Numbers = {
        **_top_label(counts, bins, edges),
        "brier": sums.brier(),
        "nll": sums.nll(),
        **_classwise(counts, channels, bins, edges),
        "zero_probability": sums.zero_probability,
        "voxels": int(counts.n.sum(1).max()) if binary else counts.voxels(),
    }
    if counts.has_posterior and not binary:
        numbers |= {"ece_true": counts.ece(bins, edges, true=True), "posterior_l1": sums.posterior_l1()}
    cleaned: Numbers = null(numbers)
    return cleaned


def case_numbers(case: CaseScores, bins: int, edges: Edges) -> Numbers:
    """Every score of one case: overlap, distances and volumes by foreground channel, calibration by region."""
    foreground = list(enumerate(case.channels))[1:]
    numbers: Numbers = {"patient_id": case.patient_id, "spacing_mm": list(case.spacing_mm)}
    labelled = case.labelled or (True,) * len(case.channels)
    for key, values in overlap_numbers(case.overlap, case.channels, labelled).items():
        numbers[key] = values
    for key in ("hd95_mm", "surface_dice"):
        values = getattr(case, key) or (math.nan,) * len(case.channels)
        numbers[key] = {name: values[k] for k, name in foreground}
    unknown = dict.fromkeys(case.volumes.in_ml(0, case.spacing_mm))
    numbers["volume_ml"] = {
        name: case.volumes.in_ml(k, case.spacing_mm) if labelled[k] else unknown for k, name in foreground
    }
    cleaned: Numbers = null(numbers)
    if case.warnings:
        cleaned["warnings"] = list(case.warnings)
    cleaned["regions"] = {
        name: region_numbers(region, case.channels, bins, edges, binary=case.binary)
        for name, region in case.regions.items()
    }
    return cleaned


def overlap_numbers(overlap: OverlapCounts, channels: Sequence[str], labelled: Sequence[bool]) -> Numbers:
    """Dice, IoU, precision and recall of each foreground channel."""
    found: Numbers = {}
    for key in OVERLAPS:
        values = getattr(overlap, key)().tolist()
        found[key] = {name: values[k] if labelled[k] else math.nan for k, name in list(enumerate(channels))[1:]}
    cleaned: Numbers = null(found)
    return cleaned


def null(value: Any) -> Any:
    """NaN and infinities become null, at any depth."""
    if isinstance(value, dict):
        return {key: null(entry) for key, entry in value.items()}
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


def _top_label(counts: CalibrationCounts, bins: int, edges: Edges) -> Numbers:
    curve = counts.reliability(0, bins=bins, edges=edges)
    overlap = uncertainty_error_overlap(counts)
    return {
        "ece": counts.ece(bins, edges),
        "ace_bins": counts.ace_bins(bins, edges),
        "mce": counts.mce(bins, edges),
        "ece_equal_mass": counts.ece_equal_mass(bins),
        "rms_calibration_error": float(rms_calibration_error(curve)),
        "debiased_squared_error": float(debiased_squared_error(curve)),
        "gap": float((curve.confidence - curve.accuracy).sum() / curve.n.sum()),
        "accuracy": counts.accuracy(),
        "aurc": aurc(counts),
        "excess_aurc": excess_aurc(counts),
        "uncertainty_error_overlap": overlap.dice,
        "uncertainty_error_threshold": overlap.threshold,
    }


def _classwise(counts: CalibrationCounts, channels: Sequence[str], bins: int, edges: Edges) -> Numbers:
    def named(values: Tensor) -> Numbers:
        return dict(zip(channels, values.tolist(), strict=True))

    return {
        "classwise_ece": named(counts.classwise_ece(bins, edges)),
        "classwise_ace_bins": named(counts.classwise_ace_bins(bins, edges)),
        "classwise_mce": named(counts.classwise_mce(bins, edges)),
        "classwise_debiased_squared_error": named(debiased_squared_error(counts.binned(bins, edges))[1:]),
        "thresholded_ece": named(thresholded_ece(counts, bins, edges)),
        "classwise_brier": named(classwise_brier(counts)),
        "brier_parts": _by_channel(channels, brier_parts(counts, bins, edges)._asdict(), leave_out="brier"),
        "qu_brats": _by_channel(channels, qu_brats(counts)._asdict()),
    }


def _by_channel(channels: Sequence[str], columns: dict[str, Any], leave_out: str = "") -> Numbers:
    """Columns over channels as one row a channel."""
    rows = {key: values.tolist() for key, values in columns.items() if key != leave_out}
    return {name: {key: values[k] for key, values in rows.items()} for k, name in enumerate(channels)}
