"""Which cases the page shows in slices, and their pictures within a budget of bytes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from math import sqrt
from pathlib import Path
from typing import Any

import numpy as np

from medcalib.files import read_json
from medcalib.report import plots, slices
from medcalib.report.content import Method
from medcalib.report.pictures import GAP_RANGE, Scales, color_bar, region_colors
from medcalib.report.slices import CaseSlices

INDEX = "maps.json"
MAX_BYTES = 6_000_000  # of all slices of a page: with its figures and tables it stays below 10 MB
EDGE, LEAST_EDGE = 320, 64  # longest edge of a picture in pixels: the wish, and where thinning ends


@dataclass(frozen=True)
class Viewer:
    """The slices of one case, or the names of the maps that are missing."""

    rank: str
    case_id: str
    has_image: bool
    slices: CaseSlices | None
    missing: list[str]

    @property
    def bytes(self) -> int:
        """Size of its pictures."""
        shown = self.slices.slices if self.slices else ()
        return sum(len(uri) for one in shown for uri in one.pictures.values())


def viewers(methods: Sequence[Method], underlays: Mapping[str, Path], cases: int) -> dict[str, Any]:
    """What the page says and shows of slices, `cases` a method; empty without maps.

    Pictures are thinned until all of them fit into the budget. Confidence cannot fall below 1 / classes.
    """
    folders = [m.maps for m in methods if m.maps]
    if not folders:
        nothing: dict[str, Any] = {"viewers": [], "bars": {}, "region_colors": [], "map_text": {}}
        return nothing | {"scales": Scales(), "window": "", "gap_range": GAP_RANGE}
    classes = max(*(len(m.scores["settings"]["classes"]) for m in methods), 2)
    scales = Scales(1 / classes)
    shown, edge = [], EDGE
    while edge:
        shown = [(m, list(_viewers(m, m.maps, underlays, scales, cases, edge))) for m in methods if m.maps]
        size = sum(v.bytes for _, found in shown for v in found)
        edge = (
            0 if size <= MAX_BYTES or edge <= LEAST_EDGE else max(int(edge * sqrt(0.9 * MAX_BYTES / size)), LEAST_EDGE)
        )
    indices = [read_json(f / INDEX) for f in folders if (f / INDEX).is_file()]
    windows = {index.get("window_mm") for index in indices}
    known = len(windows) == 1 and None not in windows
    drawn = {kind for _, found in shown for v in found if v.slices for kind in v.slices.slices[0].pictures}
    return {
        "viewers": shown,
        "bars": {kind: color_bar(kind) for kind in ("confidence", "entropy", "gap", "true_gap") if kind in drawn},
        "region_colors": region_colors() if "region" in drawn else [],
        "scales": scales,
        "window": f"in a window of {windows.pop():g} mm " if known else "",
        "gap_range": GAP_RANGE,
        "map_text": {k: v for index in indices for k, v in index.get("maps", {}).items() if k in drawn},
    }


def places(count: int, wanted: int) -> dict[int, str]:
    """Positions among `count` cases in ascending order of ECE, and their names: worst first.

    One case is the worst, two are worst and median, more run evenly from the worst to the best.
    """
    if not count or not wanted:
        return {}
    last, median = count - 1, (count - 1) // 2
    even = [int(x) for x in np.linspace(last, 0, min(wanted, count))]
    chosen = [last, median][:wanted] if wanted < 3 else even
    names: dict[int, list[str]] = {}
    for place, name in ((last, "worst"), (median, "median"), (0, "best")):
        names.setdefault(place, []).append(name)
    ordered = sorted(dict.fromkeys(chosen), reverse=True)
    return {k: " and ".join(names[k]) if k in names else f"{count - k}. worst of {count}" for k in ordered}


def _viewers(
    method: Method, folder: Path, underlays: Mapping[str, Path], scales: Scales, cases: int, edge: int
) -> Iterator[Viewer]:
    ece = {name: plots.case_ece(method.scores, name) for name in method.scores["cases"]}
    order = sorted((value, name) for name, value in ece.items() if value is not None)
    for place, rank in places(len(order), cases).items():
        name = order[place][1]
        missing = slices.missing_maps(folder, name)
        image = underlays.get(name)
        view = partial(slices.case_slices, folder, name, underlay=image, scales=scales, max_pixels=edge)
        yield Viewer(rank, name, image is not None, None if missing else view(), missing)
