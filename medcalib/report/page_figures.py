"""The figures of the page as data URIs, each with a text for readers who do not see it."""

from __future__ import annotations

import base64
from collections.abc import Callable, Iterator, Sequence
from functools import partial, reduce
from itertools import combinations
from operator import add
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from medcalib.data.geometry import voxel_sizes
from medcalib.data.load import read_any
from medcalib.metrics.calibration import CalibrationCounts
from medcalib.report import plots
from medcalib.report.content import Method
from medcalib.report.distances import DistanceSums, sums_by_distance
from medcalib.report.findings import gaps_of
from medcalib.report.pictures import IGNORED
from medcalib.report.slices import missing_maps

if TYPE_CHECKING:
    from matplotlib.axes import Axes

MAX_DISTANCE_VOXELS = 60_000_000  # of a method: about a minute of reading and distance transforms
MIN_DISTANCE_CASES = 3  # an interval over patients needs as many
SURFACES = ("predicted", "reference")
PairsOfSums = list[tuple[str, tuple[DistanceSums, DistanceSums]]]
PerPatient = list[tuple[str, CalibrationCounts]]


class Picture(NamedTuple):
    """A figure as data URI with its alternative text; `kind` is region, class or empty."""

    uri: str
    text: str
    kind: str = ""


def overview(methods: Sequence[Method]) -> list[Picture]:
    """Where each method is over- or underconfident, the methods side by side, and their cases."""
    scored = [m for m in methods if m.cases]
    if not scored:
        return []

    def cases() -> Axes:
        ax = plots.new_axes(4.2, 3.1)
        for k, method in enumerate(scored):
            color, marker = plots.COLORS[k % len(plots.COLORS)], plots.MARKERS[k % len(plots.MARKERS)]
            plots.plot_case_ece_against_dice(method.scores, ax, color=color, marker=marker)
        return ax

    gaps = partial(plots.plot_gaps, [(m.name, gaps_of(m)) for m in scored])
    text = "Mean confidence minus accuracy of each method by region and class, with 95 % intervals"
    found = [Picture(_uri(gaps, tight=True), text)]
    if len(scored) > 1 and not any(m.binary for m in scored):
        both = partial(plots.plot_method_comparison, [m.scores for m in scored])
        text = "Pooled ECE against mean Dice of each method; the numbers are in the table below"
        found.append(Picture(_uri(both, tight=True), text))
    text = "ECE against Dice of each case; the numbers are in the table of cases"
    return [*found, Picture(_uri(cases, tight=True), text)]


def diagrams(method: Method) -> Iterator[Picture]:
    """Reliability of the top label by region, and of each class in the main region."""
    settings = method.scores["settings"]
    wanted = [] if method.binary else [("region", region, 0) for region in method.regions]
    if method.region and method.cases:
        wanted += [("class", name, k) for k, name in enumerate(method.cases[0].channels[1:], 2)]
    for kind, name, channel in wanted:
        parts = counts_of(method, name if kind == "region" else str(method.region))
        counts = pooled(parts)
        if counts.voxels(channel):
            draw = partial(plots.plot_reliability, counts, channel=channel, region=name, per_case=parts)
            ece = plots.ece_of(counts, channel, settings["bins"], settings["edges"])
            text = (
                f"Reliability diagram of {method.name}, {kind} {name}: ECE {ece:.4f}, {counts.voxels(channel):,} voxels"
            )
            yield Picture(_uri(partial(draw, bins=settings["bins"], edges=settings["edges"])), text, kind)


def spreads(method: Method) -> Iterator[Picture]:
    """How confident the method is, and how calibration differs between cases, in the main region."""
    if not method.region or not method.cases:
        return
    options = {key: method.scores["settings"][key] for key in ("bins", "edges")}
    parts = counts_of(method, method.region)
    counts = pooled(parts)
    channels = list(enumerate(method.cases[0].channels[1:], 2)) if method.binary else [(0, method.region)]
    for channel, name in channels:
        if not counts.voxels(channel):
            continue
        histogram = partial(plots.plot_confidence_histogram, counts, channel=channel, region=name, **options)
        yield Picture(_uri(histogram, tight=True), f"Voxels of {method.name} by confidence, {name}")
        cases = [part for _, part in parts]
        heat = partial(plots.plot_reliability_histogram, cases, channel=channel, region=name, **options)
        yield Picture(_uri(heat, tight=True), f"Cases of {method.name} by confidence and accuracy, {name}")


def risk(methods: Sequence[Method]) -> list[Picture]:
    """Risk against coverage of all methods that have a top label."""
    known = [(k, m) for k, m in enumerate(methods) if m.cases and m.region and not m.binary]
    if not known:
        return []

    def draw() -> Axes:
        ax = plots.new_axes(3.6, 2.9)
        for k, m in known:
            counts = pooled(counts_of(m, str(m.region)))
            plots.plot_risk_coverage(counts, ax, name=m.name, region=str(m.region), number=k)
        return ax

    return [Picture(_uri(draw, tight=True), "Error rate of the most confident voxels against their share")]


def repairs(methods: Sequence[Method]) -> Iterator[Picture]:
    """Before and after a calibrator, for each pair of methods with the same weights of which one has it."""
    for first, second in combinations([m for m in methods if m.cases and m.region and not m.binary], 2):
        before, after = sorted((first, second), key=_repaired)
        same = before.scores["method"].get("weights_sha256"), after.scores["method"].get("weights_sha256")
        if None in same or same[0] != same[1] or _repaired(before) or not _repaired(after):
            continue
        region = str(before.region)
        counts = [pooled(counts_of(m, region)) for m in (before, after) if region in m.regions]
        options = {key: before.scores["settings"][key] for key in ("bins", "edges")}
        if len(counts) == 2 and counts[0].voxels() == counts[1].voxels():
            title = f"{after.name}, {region}"
            draw = partial(plots.plot_before_after, counts[0], counts[1], title=title, **options)
            yield Picture(
                _uri(draw, tight=True), f"Reliability before and after the calibrator of {after.name}, {region}"
            )


def by_distance(methods: Sequence[Method]) -> list[Picture]:
    """Gap by distance to the predicted and to the reference surface, from maps; empty without maps."""
    sums = [(k, m, list(_distance_sums(m))) for k, m in enumerate(methods) if m.maps]
    sums = [entry for entry in sums if entry[2]]
    text = "Mean confidence minus accuracy by distance to the {} surface of the foreground"
    return [
        Picture(_uri(partial(_distance_axes, sums, side), tight=True), text.format(name))
        for side, name in enumerate(SURFACES if sums else ())
    ]


def _distance_axes(sums: Sequence[tuple[int, Method, PairsOfSums]], side: int) -> Axes:
    ax = plots.new_axes(3.9, 3.3, (0.17, 0.33, 0.8, 0.58))
    for k, method, cases in sums:
        parts = [(patient, pair[side]) for patient, pair in cases]
        plots.plot_gap_by_distance(parts, ax, name=f"{method.name} (n = {len(cases)})", number=k)
    ax.set_title(f"to the {SURFACES[side]} surface", fontsize=9.5, loc="left")
    return ax


def counts_of(method: Method, region: str) -> PerPatient:
    """Patient and counts of each case in a region."""
    return [(case.patient_id, case.regions[region].calibration) for case in method.cases]


def pooled(parts: PerPatient) -> CalibrationCounts:
    """The counts of all cases together."""
    return reduce(add, (counts for _, counts in parts))


def distance_cases(method: Method) -> list[str]:
    """The cases that the figures of distance use: those with maps; of large volumes some, evenly taken."""
    if method.maps is None:
        return []
    there = [case.case_id for case in method.cases if not missing_maps(method.maps, case.case_id)]
    if len(there) <= MIN_DISTANCE_CASES:
        return there
    voxels = read_any(method.maps / f"{there[0]}_label.nii.gz").array.size
    wanted = min(len(there), max(MIN_DISTANCE_CASES, MAX_DISTANCE_VOXELS // voxels))
    return [there[k] for k in np.linspace(0, len(there) - 1, wanted).round().astype(int)]


def _distance_sums(method: Method) -> Iterator[tuple[str, tuple[DistanceSums, DistanceSums]]]:
    patients = {case.case_id: case.patient_id for case in method.cases}
    for case_id in distance_cases(method):
        yield patients[case_id], _case_distance_sums(Path(str(method.maps)), case_id)


def _case_distance_sums(folder: Path, case_id: str) -> tuple[DistanceSums, DistanceSums]:
    kinds = ("confidence", "error", "label", "prediction")
    volumes = {kind: read_any(folder / f"{case_id}_{kind}.nii.gz") for kind in kinds}
    spacing = voxel_sizes(volumes["label"].affine)
    confidence, error, label, prediction = (volumes[kind].array for kind in kinds)
    valid = label != IGNORED
    masks = (prediction > 0) & valid, (label > 0) & valid
    first, second = (sums_by_distance(confidence, error > 0, mask, spacing, valid=valid) for mask in masks)
    return first, second


def _repaired(method: Method) -> bool:
    return bool(method.scores["method"].get("calibrator"))


def _uri(draw: Callable[[], Axes], *, tight: bool = False) -> str:
    return "data:image/svg+xml;base64," + base64.b64encode(plots.svg(draw, tight=tight)).decode()
