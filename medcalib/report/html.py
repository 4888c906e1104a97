"""The page: every number on it is read from `scores.json` or computed from the stored counts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from medcalib import __version__
from medcalib.errors import ConfigError
from medcalib.files import require_writable, write_text
from medcalib.metrics.definitions import DEFINITIONS
from medcalib.report import page_figures
from medcalib.report.content import Method, read_methods
from medcalib.report.findings import EVIDENCE
from medcalib.report.headlines import headline, span
from medcalib.report.page_templates import environment, script_hash, template_text
from medcalib.report.plots import case_ece
from medcalib.report.side_by_side import comparison, legend, ordered_regions, tables
from medcalib.report.viewers import viewers

CASES = 3
LISTED = ("bins", "edges", "regions", "classes", "composites", "definitions")  # settings in lines of their own


def build_report(
    scores: Sequence[Path],
    out: Path,
    *,
    maps: Sequence[Path] = (),
    underlays: Mapping[str, Path] | None = None,
    title: str = "Calibration report",
    cases: int = CASES,
) -> Path:
    """Write one HTML page about the scores folders and return its path.

    `maps`: none, or one folder per scores folder, in the same order. `underlays`: case id -> image. `cases`: how many
    cases of each method are shown in slices (worst, median, ..., best). Raises `DataError` when a file is missing or
    damaged. `title` is its heading, `out` the file. `ConfigError` for another number of maps folders, `cases` below 1,
    and an `out` that exists and is no page.
    """
    if maps and len(maps) != len(scores):
        raise ConfigError(f"{len(scores)} scores folders need as many maps folders, in the same order, got {len(maps)}")
    lost = [str(folder) for folder in maps if not folder.is_dir()]
    if lost:
        raise ConfigError(f"{', '.join(lost)}: no such folder of maps; `medcalib maps` writes one")
    if cases < 1:
        raise ConfigError(f"cases must be 1 or more, got {cases}")
    _check_out(out)
    methods = read_methods(scores, maps)
    templates = environment()
    templates.filters["span"] = span
    templates.globals["case_ece"] = case_ece
    script = template_text("script.js")
    page = templates.get_template("page.html.j2").render(
        title=title,
        methods=methods,
        headlines=[headline(method) for method in methods],
        comparison=comparison(methods),
        legend=legend(methods),
        groups=[(name, list(rows)) for name, rows in tables(methods)],
        regions={k: v for m in methods for k, v in m.scores["settings"]["regions"].items()},
        protocols={k: v["definition"] for m in methods for k, v in m.scores.get("protocols", {}).items()},
        ordered=ordered_regions(methods),
        definitions={**DEFINITIONS, **{k: v for m in methods for k, v in _definitions(m).items()}},
        evidence=EVIDENCE,
        listed=LISTED,
        version=__version__,
        style=template_text("style.css"),
        script=script,
        script_hash=script_hash(script),
        **_figures(methods),
        **viewers(methods, underlays or {}, cases),
    )
    write_text(out, page.strip() + "\n")
    return out


def _check_out(out: Path) -> None:
    """Fail now where `out` cannot be written, or is a file of another kind. Raises `ConfigError`, `OSError`."""
    require_writable(out)
    if not out.is_symlink() and out.exists():  # a link is replaced, its target stays
        with out.open("rb") as stream:
            start = stream.read(64)
        if start and not start.lstrip().lower().startswith((b"<!doctype html", b"<html")):
            raise ConfigError(f"{out} exists and is no HTML page; choose another file, or remove it")


def _figures(methods: Sequence[Method]) -> dict[str, Any]:
    return {
        "overview": page_figures.overview(methods),
        "distance": page_figures.by_distance(methods),
        "distance_cases": [(m.name, len(page_figures.distance_cases(m)), len(m.cases)) for m in methods if m.maps],
        "repairs": list(page_figures.repairs(methods)),
        "risk": page_figures.risk(methods),
        "diagrams": [(m, list(page_figures.diagrams(m)), list(page_figures.spreads(m))) for m in methods],
    }


def _definitions(method: Method) -> dict[str, str]:
    found: dict[str, str] = method.scores["settings"].get("definitions", {})
    return found
