"""Methods against one another: sentences and the table. What is called clear is paired over patients."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from medcalib.metrics.over_seeds import Contrast, Tables, estimates, over_patients_of
from medcalib.metrics.paired import holm
from medcalib.report.content import Method, Numbers
from medcalib.report.findings import patient_sums
from medcalib.report.paired import CLEAR, difference, judged, out_of_reach, told
from medcalib.report.rows import Row, Tested, overlap_rows, pooled_ece, protocol_rows, region_rows

ALL_PAIRS = 3  # of up to so many methods the sentences tell every difference, of more those from the lowest
RULE = (
    f"One method is called lower or higher than another only where {CLEAR} (Wilcoxon's signed-rank test over patients, "
    "corrected for all pairs of methods); otherwise these patients leave it open, which is no proof of equality. The "
    "interval is of the difference of the two numbers shown; of a pooled ECE, the test is of the ECE of single cases."
)


def comparison(methods: Sequence[Method]) -> list[str]:
    """Sentences about several methods: their values, and which paired differences are clear."""
    known = [m for m in methods if m.main.get("ece") is not None]
    if len(known) < 2:
        return []
    differing = differences(known)
    if differing:
        return [f"The methods are not compared: they differ in {', '.join(differing)}."]
    ordered = sorted(known, key=lambda m: (m.main["ece"], m.name))
    first = ordered[0]
    word = "lower" if len(known) == 2 else "lowest"
    values = ", ".join(f"{m.name} {_with_interval(m)}" for m in ordered)
    said = [f"{first.name} has the {word} ECE {first.where} on these cases: {values}."]
    if len({f"{m.main['ece']:.4f}" for m in known}) == 1:
        return [f"The methods have the same ECE {first.where} at the printed precision: {values}."]
    if any(m.main["ece_low"] is None for m in known):
        return [*said, "An interval is undefined (fewer than 3 patients), so no method is set apart."]
    found = paired(ordered, pooled_ece(str(first.region)))
    shown = [pair for pair in found if pair[0] == 0 or len(known) <= ALL_PAIRS]
    told_pairs = "; ".join(f"{ordered[i].name} {told(found[i, j], ordered[j].name)}" for i, j in shown)
    limit = out_of_reach(first.patients, sum(entry["p"] is not None for entry in found.values()) or 1)
    return [*said, f"Paired over {first.patients} patients: {told_pairs}.", *[limit] * bool(limit)]


def paired(methods: Sequence[Method], tested: Tested) -> dict[tuple[int, int], Numbers]:
    """First minus second of each pair of methods on the same cases, with interval, p, and Holm's p over all pairs."""
    cases = methods[0].cases
    patients = sorted({case.patient_id for case in cases})
    owners = [patients.index(case.patient_id) for case in cases]
    values = np.array([[tested.of_case(m.scores["cases"][c.case_id]) for c in cases] for m in methods], dtype=float)
    if tested.pooled:
        sums = [patient_sums(method, tested.pooled, 0) for method in methods]
        parts = np.stack([s.confidence - s.hits for s in sums]), np.stack([s.voxels for s in sums])
        tables = Tables("ece", *(part[:, :, None] for part in parts))
    else:
        given = np.isfinite(values).astype(float)
        owned = np.eye(len(patients))[owners]  # (N, P)
        tables = Tables("mean", *((part @ owned)[..., None, None] for part in (np.nan_to_num(values), given)))
    by_patient = over_patients_of(values.T, owners, len(patients)).T
    pairs = list(itertools.combinations(range(len(methods)), 2))
    contrasts = [Contrast((i,), (j,)) for i, j in pairs]
    found = [difference(c, e, by_patient) for c, e in zip(contrasts, estimates(tables, contrasts), strict=True)]
    corrected = holm({str(pair): entry["p"] for pair, entry in zip(pairs, found, strict=True)})
    return {pair: entry | {"p_holm": corrected[str(pair)]} for pair, entry in zip(pairs, found, strict=True)}


def tables(methods: Sequence[Method]) -> Iterator[tuple[str, Iterator[Row]]]:
    """Groups of rows of the comparison table."""
    scored = [m for m in methods if m.cases]
    if not scored:
        return
    groups = [("Overlap and distance, mean over cases", overlap_rows(methods))]
    groups += [(f"Region {region}", region_rows(methods, region)) for region in ordered_regions(scored)]
    names = dict.fromkeys(itertools.chain(*(m.scores.get("protocols", {}) for m in methods)))
    groups += [(f"Protocol {name}", protocol_rows(methods, name)) for name in names]
    comparable = len(scored) == len(methods) > 1 and not differences(methods)
    for name, rows in groups:
        yield name, (_marked(row, tested, methods) if tested and comparable else row for row, tested in rows)


def ordered_regions(methods: Sequence[Method]) -> list[str]:
    """Every scored region once, the main one first."""
    regions = dict.fromkeys(itertools.chain(*(m.scores["pooled"] for m in methods)))
    return sorted(regions, key=lambda name: all(name != m.region for m in methods))


def _marked(row: Row, tested: Tested, methods: Sequence[Method]) -> Row:
    """The row with its best cell marked, if the paired differences from all others are clear."""
    if any(cell.low is None for cell in row.cells):
        return row
    values = [float(cell.value or 0) for cell in row.cells]
    best = values.index(max(values) if tested.higher else min(values))
    better = ("higher", "lower") if tested.higher else ("lower", "higher")
    clear = all(judged(e) == better[k == best] for (_, k), e in paired(methods, tested).items() if best in (_, k))
    return replace(row, cells=tuple(replace(c, best=clear and k == best) for k, c in enumerate(row.cells)))


def legend(methods: Sequence[Method]) -> str:
    """What bold means in the table; empty for one method."""
    scored = [m for m in methods if m.cases]
    if len(methods) < 2 or not scored:
        return ""
    if len(scored) < len(methods):
        return "No value is set in bold, since a method has no scored case."
    differing = differences(methods)
    if differing:
        return f"No value is set in bold: the methods are not compared, they differ in {', '.join(differing)}."
    pairs = len(methods) * (len(methods) - 1) // 2
    limit = out_of_reach(methods[0].patients, pairs)
    return f"Bold: better than every other method's, each clearly. {RULE}{' ' * bool(limit)}{limit}"


def _with_interval(method: Method) -> str:
    low, high = method.main["ece_low"], method.main["ece_high"]
    return f"{method.main['ece']:.4f}" + (f" ({low:.4f} to {high:.4f})" if low is not None else "")


def differences(methods: Sequence[Method]) -> list[str]:
    """In what scored methods differ that makes their numbers incomparable."""
    scored = [m for m in methods if m.cases]
    reads: dict[str, Callable[[Method], Any]] = {
        "data set": lambda m: m.scores.get("dataset"),
        "bins or edge rule": lambda m: (m.scores["settings"]["bins"], m.scores["settings"]["edges"]),
        "regions": lambda m: sorted(m.scores["pooled"]),
        "classes": lambda m: (m.scores["settings"]["classes"], m.scores["settings"]["composites"]),
        "cases scored": lambda m: sorted(m.scores["cases"]),
        "patients of the cases": lambda m: sorted((c.case_id, c.patient_id) for c in m.cases),
    }
    found = [what for what, read in reads.items() if any(read(m) != read(scored[0]) for m in scored)]
    return [what for what in found if what != "patients of the cases" or "cases scored" not in found]
