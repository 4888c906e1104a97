"""What the page says in numbers and words: methods, headlines, the comparison and its table."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from medcalib.errors import DataError
from medcalib.files import read_json
from medcalib.metrics.case import CaseScores
from medcalib.report.plots import main_region

Numbers = dict[str, Any]
REGION_WORDS = {
    "all": "over all voxels",
    "foreground": "in the foreground of reference or prediction",
    "gt_foreground": "in the reference foreground",
    "pred_foreground": "in the predicted foreground",
    "boundary": "near the reference boundaries",
}
KEYS = ("n_expected", "n_scored", "refused", "settings", "pooled", "mean", "cases")


@dataclass(frozen=True)
class Method:
    """One scores folder: its numbers, the counts of its cases, and its maps where there are any."""

    name: str
    scores: Numbers
    cases: tuple[CaseScores, ...]
    maps: Path | None

    @property
    def region(self) -> str | None:
        """The region that the summary speaks of."""
        return main_region(self.scores)

    @property
    def main(self) -> Numbers:
        """Pooled numbers of the main region; empty where nothing was scored."""
        return self.scores["pooled"][self.region] if self.region else {}

    @property
    def where(self) -> str:
        """The main region in the words of a sentence."""
        return in_words(str(self.region))

    @property
    def binary(self) -> bool:
        """Whether channels are independent regions, without a top label."""
        return bool(self.scores["settings"].get("independent_channels"))

    @property
    def regions(self) -> list[str]:
        """Scored regions, the main one first."""
        return sorted(self.scores["pooled"], key=lambda name: name != self.region)

    @property
    def patients(self) -> int:
        """How many patients the scored cases come from."""
        return len({case.patient_id for case in self.cases})


@dataclass(frozen=True)
class Cell:
    """A number of the table, defined in `n` cases. `best`: its interval lies apart from all others."""

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


def in_words(region: str) -> str:
    """A region in the words of a sentence."""
    return REGION_WORDS.get(region, f"in region {region}")


def read_methods(scores: Sequence[Path], maps: Sequence[Path] = ()) -> list[Method]:
    """Scores folders as methods; names that occur twice are numbered."""
    found: list[Method] = []
    for folder, images in itertools.zip_longest(scores, maps):
        if not (folder / "scores.json").exists():
            shards = any(folder.glob("shard-*-of-*.json"))
            fix = "it holds shards only, make the whole of them by `medcalib merge`" if shards else "`score` writes it"
            raise DataError("missing_file", f"{folder / 'scores.json'} does not exist; {fix}")
        numbers = read_json(folder / "scores.json")
        lacks = [key for key in KEYS if not isinstance(numbers, dict) or key not in numbers]
        if lacks:
            raise DataError("broken_scores", f"{folder / 'scores.json'} lacks {', '.join(lacks)}; score again")
        if not isinstance(numbers["cases"], dict) or not isinstance(numbers["settings"], dict):
            raise DataError("broken_scores", f"{folder / 'scores.json'}: cases and settings are no tables; score again")
        name = str(numbers.get("method", {}).get("name") or folder.name)
        taken = sum(method.name == name or method.name.startswith(f"{name} (") for method in found)
        name = f"{name} ({taken + 1})" if taken else name
        numbers["method"] = {**numbers.get("method", {}), "name": name}
        stored = [CaseScores.load(p) for p in sorted(folder.glob("*.npz")) if not p.name.startswith(".")]
        cases = tuple(sorted((c for c in stored if c.case_id in numbers["cases"]), key=lambda c: c.case_id))
        absent = sorted(set(numbers["cases"]) - {case.case_id for case in cases})
        if absent:
            named = ", ".join(absent[:5])
            raise DataError("missing_file", f"{folder} lacks the counts of {named}; score again")
        found.append(Method(name, numbers, cases, images))
    return found


def comparison(methods: Sequence[Method]) -> list[str]:
    """Sentences about several methods: their values, and whether intervals set one apart."""
    known = [m for m in methods if m.main.get("ece") is not None]
    if len(known) < 2:
        return []
    differing = differences(known)
    if differing:
        return [f"The methods are not compared: they differ in {', '.join(differing)}."]
    first, *others = sorted(known, key=lambda m: (m.main["ece"], m.name))
    word = "lower" if len(known) == 2 else "lowest"
    values = ", ".join(f"{m.name} {_with_interval(m)}" for m in (first, *others))
    said = [f"{first.name} has the {word} ECE {first.where} on these cases: {values}."]
    if len({f"{m.main['ece']:.4f}" for m in known}) == 1:
        return [f"The methods have the same ECE {first.where} at the printed precision: {values}."]
    if any(m.main["ece_low"] is None for m in known):
        return [*said, "An interval is undefined (fewer than 3 patients), so no method is set apart."]
    touching = [m.name for m in others if m.main["ece_low"] <= first.main["ece_high"]]
    if not touching:
        return [*said, f"The 95 % intervals do not overlap{' with any other' if len(known) > 2 else ''}."]
    names = " and ".join(touching) if len(touching) < 3 else f"{len(touching)} others"
    return [*said, f"The 95 % intervals of {first.name} and {names} overlap; these cases leave it open."]


def tables(methods: Sequence[Method], comparable: bool) -> Iterator[tuple[str, Iterator[Row]]]:
    """Groups of rows of the comparison table."""
    scored = [m for m in methods if m.cases]
    if not scored:
        return
    yield "Overlap and distance, mean over cases", _marked(_overlap_rows(methods), comparable)
    for region in ordered_regions(scored):
        yield f"Region {region}", _marked(_region_rows(methods, region), comparable)
    for name in dict.fromkeys(itertools.chain(*(m.scores.get("protocols", {}) for m in methods))):
        yield f"Protocol {name}", _marked(_protocol_rows(methods, name), comparable)


def ordered_regions(methods: Sequence[Method]) -> list[str]:
    """Every scored region once, the main one first."""
    regions = dict.fromkeys(itertools.chain(*(m.scores["pooled"] for m in methods)))
    return sorted(regions, key=lambda name: all(name != m.region for m in methods))


def _overlap_rows(methods: Sequence[Method]) -> Iterator[tuple[Row, int]]:
    for key, label, digits, sign in (
        ("dice", "Dice", 4, 1),
        ("surface_dice", "surface Dice", 4, 1),
        ("hd95_mm", "HD95, mm", 2, -1),
    ):
        means = [m.scores["mean"].get(key, {}) for m in methods]
        names = dict.fromkeys(itertools.chain(*means))
        for name in sorted(names, key=lambda n: n != "foreground"):
            shown = "mean of foreground classes" if name == "foreground" and len(names) > 1 else name
            yield Row(f"{label}, {shown}", tuple(_cell(mean.get(name)) for mean in means), digits), sign


def _region_rows(methods: Sequence[Method], region: str) -> Iterator[tuple[Row, int]]:
    pooled = [m.scores["pooled"].get(region, {}) for m in methods]
    means = [m.scores["mean"].get(region, {}) for m in methods]
    for row, sign in _all_region_rows(methods, region, pooled, means):
        if any(cell.value is not None for cell in row.cells):  # independent regions have no top label
            yield row, sign


def _all_region_rows(
    methods: Sequence[Method], region: str, pooled: Sequence[Numbers], means: Sequence[Numbers]
) -> Iterator[tuple[Row, int]]:
    cells = tuple(Cell(p.get("ece"), p.get("ece_low"), p.get("ece_high")) for p in pooled)
    yield Row("ECE, pooled over voxels", cells), -1
    yield Row("ECE, mean over cases", tuple(_cell(mean.get("ece")) for mean in means)), -1
    yield Row("mean confidence minus accuracy, pooled", tuple(Cell(p.get("gap")) for p in pooled)), 0
    classwise = (_foreground_mean(m, p) for m, p in zip(methods, pooled, strict=True))
    yield Row("classwise ECE, pooled, mean of foreground classes", tuple(Cell(v) for v in classwise)), -1
    names = dict.fromkeys(name for p in pooled for name in list(p.get("classwise_ece", {}))[1:])
    for name in names if all(region == m.region for m in methods if m.cases) else ():
        yield (
            Row(f"classwise ECE, pooled, {name}", tuple(Cell(p.get("classwise_ece", {}).get(name)) for p in pooled)),
            -1,
        )
    for key, label in (("ace_bins", "ACE over bins, pooled"), ("mce", "MCE (worst bin), pooled")):
        yield Row(label, tuple(Cell(p.get(key)) for p in pooled)), -1
    for key, label in (("brier", "Brier score"), ("nll", "negative log-likelihood, nats")):
        yield Row(f"{label}, mean over cases", tuple(_cell(mean.get(key)) for mean in means)), -1
    yield Row("area under risk-coverage, pooled", tuple(Cell(p.get("aurc")) for p in pooled)), -1
    if any("ece_true" in p for p in pooled):
        yield Row("true ECE, pooled", tuple(Cell(p.get("ece_true")) for p in pooled)), -1
        cells = tuple(Cell(p.get("posterior_l1")) for p in pooled)
        yield Row("true mean distance to the posterior, pooled", cells), -1


def _protocol_rows(methods: Sequence[Method], name: str) -> Iterator[tuple[Row, int]]:
    means = [m.scores.get("protocols", {}).get(name, {}).get("mean", {}) for m in methods]
    for key in dict.fromkeys(itertools.chain(*means)):
        yield Row(key, tuple(Cell(mean.get(key)) for mean in means)), 0


def _marked(rows: Iterator[tuple[Row, int]], comparable: bool) -> Iterator[Row]:
    """Rows whose best cell is marked if its interval lies apart from all others; sign 1: higher is better."""
    for row, sign in rows:
        known = [(c.low, c.high) for c in row.cells if c.low is not None and c.high is not None]
        ends = [sorted((sign * low, sign * high)) for low, high in known]
        if not sign or not comparable or len(ends) < max(2, len(row.cells)):
            yield row
            continue
        best = max(range(len(ends)), key=lambda k: ends[k][0])
        apart = all(end[1] < ends[best][0] for k, end in enumerate(ends) if k != best)
        cells = tuple(replace(c, best=apart and k == best) for k, c in enumerate(row.cells))
        yield replace(row, cells=cells)


def _cell(entry: Numbers | None) -> Cell:
    return Cell(None) if entry is None else Cell(entry["value"], entry["low"], entry["high"], entry["n"])


def _foreground_mean(method: Method, pooled: Numbers) -> float | None:
    classes = method.scores["settings"]["classes"][1:]
    known = [v for k, v in pooled.get("classwise_ece", {}).items() if k in classes and v is not None]
    return sum(known) / len(known) if known else None


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
    }
    return [what for what, read in reads.items() if any(read(m) != read(scored[0]) for m in scored)]
