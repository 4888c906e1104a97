"""The page: every number on it is read from `scores.json` or computed from the stored counts."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial, reduce
from importlib.resources import files
from operator import add
from pathlib import Path
from typing import TYPE_CHECKING, Any

from medcalib import __version__
from medcalib.errors import ConfigError, MissingExtraError
from medcalib.files import read_json, write_text
from medcalib.metrics.calibration import CalibrationCounts
from medcalib.report import plots, slices
from medcalib.report.content import (
    Method,
    comparison,
    differences,
    headline,
    ordered_regions,
    read_methods,
    tables,
)
from medcalib.report.slices import CaseSlices

if TYPE_CHECKING:
    from matplotlib.axes import Axes

INDEX = "maps.json"


@dataclass(frozen=True)
class Viewer:
    """The slices of one case, or the names of the maps that are missing."""

    rank: str
    case_id: str
    has_image: bool
    slices: CaseSlices | None
    missing: list[str]


def build_report(
    scores: Sequence[Path],
    out: Path,
    *,
    maps: Sequence[Path] = (),
    underlays: Mapping[str, Path] | None = None,
    title: str = "Calibration report",
) -> Path:
    """Write one HTML page about the scores folders and return its path.

    `maps`: none, or one folder per scores folder, in the same order. `underlays`: case id -> image. Raises
    `DataError` when a file is missing or damaged.
    """
    if maps and len(maps) != len(scores):
        raise ConfigError(f"{len(scores)} scores folders need as many maps folders, got {len(maps)}")
    methods = read_methods(scores, maps)
    comparable = differences(methods) == []
    page = (
        _environment()
        .from_string(_template_text())
        .render(
            title=title,
            methods=methods,
            headlines=[headline(method) for method in methods],
            comparison=comparison(methods),
            groups=[(name, list(rows)) for name, rows in tables(methods, comparable)],
            overview=_overview(methods),
            diagrams=[(method, list(_diagrams(method))) for method in methods],
            regions={k: v for m in methods for k, v in m.scores["settings"]["regions"].items()},
            ordered=ordered_regions(methods),
            version=__version__,
            **_images(methods, underlays or {}),
        )
    )
    write_text(out, page.strip() + "\n")
    return out


def _overview(methods: Sequence[Method]) -> list[str]:
    scored = [m for m in methods if m.cases]
    if not scored:
        return []

    def cases() -> Axes:
        ax = plots.new_axes(4.2, 3.1)
        for k, method in enumerate(scored):
            color, marker = plots.COLORS[k % len(plots.COLORS)], plots.MARKERS[k % len(plots.MARKERS)]
            plots.plot_case_ece_against_dice(method.scores, ax, color=color, marker=marker)
        return ax

    both = partial(plots.plot_method_comparison, [m.scores for m in scored])
    return [_uri(both, tight=True), _uri(cases, tight=True)]


def _diagrams(method: Method) -> Iterator[tuple[str, str, str]]:
    """Kind, caption and picture of each reliability diagram."""
    settings = method.scores["settings"]
    wanted = [("region", region, 0) for region in ordered_regions([method])]
    if method.region and method.cases:
        wanted += [("class", name, k) for k, name in enumerate(method.cases[0].channels[1:], 2)]
    for kind, name, channel in wanted:
        region = name if kind == "region" else str(method.region)
        parts = [(c.patient_id, c.regions[region].calibration) for c in method.cases]
        counts: CalibrationCounts = reduce(add, (part for _, part in parts))
        if counts.voxels(channel):
            draw = partial(plots.plot_reliability, counts, channel=channel, region=name, per_case=parts)
            yield kind, name, _uri(partial(draw, bins=settings["bins"], edges=settings["edges"]))


def _viewers(method: Method, folder: Path, underlays: Mapping[str, Path], lowest: float) -> Iterator[Viewer]:
    """Rank, case id, and slices (or names of missing maps) of the worst, the median and the best case."""
    ece = {name: plots.case_ece(method.scores, name) for name in method.scores["cases"]}
    order = sorted((value, name) for name, value in ece.items() if value is not None)
    places = {"worst": len(order) - 1, "median": (len(order) - 1) // 2, "best": 0}
    ranked: dict[int, list[str]] = {}
    for rank, place in places.items():
        ranked.setdefault(place, []).append(rank)
    for place, ranks in ranked.items() if order else ():
        name = order[place][1]
        missing = slices.missing_maps(folder, name)
        image = underlays.get(name)
        view = partial(slices.case_slices, folder, name, underlay=image, lowest_confidence=lowest)
        yield Viewer(" and ".join(ranks), name, image is not None, None if missing else view(), missing)


def _images(methods: Sequence[Method], underlays: Mapping[str, Path]) -> dict[str, Any]:
    """What the page says and shows of slices; confidence cannot fall below 1 / classes."""
    folders = [m.maps for m in methods if m.maps]
    if not folders:
        return {"viewers": [], "bars": {}, "lowest": 0.0, "window": "", "gap_range": slices.GAP_RANGE}
    lowest = 1 / max(*(len(m.scores["settings"]["classes"]) for m in methods), 1)
    windows = {read_json(f / INDEX).get("window_mm") for f in folders if (f / INDEX).is_file()}
    known = len(windows) == 1 and None not in windows
    return {
        "viewers": [(m, list(_viewers(m, m.maps, underlays, lowest))) for m in methods if m.maps],
        "bars": {kind: slices.color_bar(kind) for kind in ("confidence", "gap")},
        "lowest": lowest,
        "window": f"in a window of {windows.pop():g} mm " if known else "",
        "gap_range": slices.GAP_RANGE,
    }


def _uri(draw: Callable[[], Axes], *, tight: bool = False) -> str:
    return "data:image/svg+xml;base64," + base64.b64encode(plots.svg(draw, tight=tight)).decode()


def _number(value: float | None, digits: int = 4) -> str:
    return "n/a" if value is None else f"{value:.{digits}f}"


def _template_text() -> str:
    return files("medcalib.report").joinpath("template.html.j2").read_text(encoding="utf-8")


def _environment() -> Any:
    try:
        import jinja2
    except ImportError as error:
        raise MissingExtraError("report", "jinja2") from error
    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters["number"] = _number
    environment.filters["plain"] = lambda v: v if isinstance(v, str) else json.dumps(v, ensure_ascii=False)
    return environment
