"""The rows of the table of methods: which numbers, and by which values of single cases a row is tested."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from medcalib.report.content import Method, Numbers

Labelled = tuple["Row", "Tested | None"]


@dataclass(frozen=True)
class Cell:
    """A number of the table, defined in `n` cases. `best`: better than every other, and clearly so."""

    value: float | None
    low: float | None = None
    high: float | None = None
    n: int | None = None
    best: bool = False


@dataclass(frozen=True)
class Row:
    """One measure, one cell a method."""

    label: str
    cells: tuple[Cell, ...]
    digits: int = 4


@dataclass(frozen=True)
class Tested:
    """How a row is compared: whether higher is better, and its value of a case of `scores.json`.

    `pooled` names the region of a pooled ECE; the row is a mean over cases where it is empty.
    """

    higher: bool
    of_case: Callable[[Numbers], float | None]
    pooled: str = ""


def pooled_ece(region: str) -> Tested:
    """The pooled ECE of a region, tested by the ECE of single cases."""
    return Tested(False, _in_region(region, "ece"), region)


def overlap_rows(methods: Sequence[Method]) -> Iterator[Labelled]:
    """Dice, surface Dice and HD95 by class, mean over cases."""
    classes = next(m for m in methods if m.cases).scores["settings"]["classes"][1:]
    for key, label, digits, higher in (
        ("dice", "Dice", 4, True),
        ("surface_dice", "surface Dice", 4, True),
        ("hd95_mm", "HD95, mm", 2, False),
    ):
        means = [m.scores["mean"].get(key, {}) for m in methods]
        names = dict.fromkeys(itertools.chain(*means))
        for name in sorted(names, key=lambda n: n != "foreground"):
            shown = "mean of foreground classes" if name == "foreground" and len(names) > 1 else name
            row = Row(f"{label}, {shown}", tuple(_cell(mean.get(name)) for mean in means), digits)
            yield row, Tested(higher, _of_structure(key, name, classes))


def region_rows(methods: Sequence[Method], region: str) -> Iterator[Labelled]:
    """Calibration in one region, without the rows that no method has a value of."""
    pooled = [m.scores["pooled"].get(region, {}) for m in methods]
    means = [m.scores["mean"].get(region, {}) for m in methods]
    for row, tested in _all_region_rows(methods, region, pooled, means):
        if any(cell.value is not None for cell in row.cells):  # independent regions have no top label
            yield row, tested


def _all_region_rows(
    methods: Sequence[Method], region: str, pooled: Sequence[Numbers], means: Sequence[Numbers]
) -> Iterator[Labelled]:
    def plain(label: str, key: str) -> Labelled:
        return Row(label, tuple(Cell(p.get(key)) for p in pooled)), None

    def averaged(label: str, key: str) -> Labelled:
        row = Row(f"{label}, mean over cases", tuple(_cell(mean.get(key)) for mean in means))
        return row, Tested(False, _in_region(region, key))

    cells = tuple(Cell(p.get("ece"), p.get("ece_low"), p.get("ece_high")) for p in pooled)
    yield Row("ECE, pooled over voxels", cells), pooled_ece(region)
    yield averaged("ECE", "ece")
    yield plain("mean confidence minus accuracy, pooled", "gap")
    classwise = (_foreground_mean(m, p) for m, p in zip(methods, pooled, strict=True))
    yield Row("classwise ECE, pooled, mean of foreground classes", tuple(Cell(v) for v in classwise)), None
    names = dict.fromkeys(name for p in pooled for name in list(p.get("classwise_ece", {}))[1:])
    for name in names if all(region == m.region for m in methods if m.cases) else ():
        values = (p.get("classwise_ece", {}).get(name) for p in pooled)
        yield Row(f"classwise ECE, pooled, {name}", tuple(Cell(value) for value in values)), None
    yield plain("ACE over bins, pooled", "ace_bins")
    yield plain("MCE (worst bin), pooled", "mce")
    yield averaged("Brier score", "brier")
    yield averaged("negative log-likelihood, nats", "nll")
    yield plain("area under risk-coverage, pooled", "aurc")
    if any("ece_true" in p for p in pooled):
        yield plain("true ECE, pooled", "ece_true")
        yield plain("true mean distance to the posterior, pooled", "posterior_l1")


def protocol_rows(methods: Sequence[Method], name: str) -> Iterator[Labelled]:
    """The numbers of a published protocol."""
    means = [m.scores.get("protocols", {}).get(name, {}).get("mean", {}) for m in methods]
    for key in dict.fromkeys(itertools.chain(*means)):
        yield Row(key, tuple(Cell(mean.get(key)) for mean in means)), None


def _in_region(region: str, key: str) -> Callable[[Numbers], float | None]:
    def read(case: Numbers) -> float | None:
        value: float | None = case["regions"].get(region, {}).get(key)
        return value

    return read


def _of_structure(key: str, name: str, classes: Sequence[str]) -> Callable[[Numbers], float | None]:
    """Of a case; of the mean of classes, which no case holds, the mean of those that have a value."""

    def read(case: Numbers) -> float | None:
        found: Numbers = case.get(key, {})
        known = [found.get(n) for n in ([name] if name in found or name != "foreground" else classes)]
        values = [value for value in known if value is not None]
        return sum(values) / len(values) if values else None

    return read


def _cell(entry: Numbers | None) -> Cell:
    return Cell(None) if entry is None else Cell(entry["value"], entry["low"], entry["high"], entry["n"])


def _foreground_mean(method: Method, pooled: Numbers) -> float | None:
    classes = method.scores["settings"]["classes"][1:]
    known = [v for k, v in pooled.get("classwise_ece", {}).items() if k in classes and v is not None]
    return sum(known) / len(known) if known else None
