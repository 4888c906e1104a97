"""The page: the same look as the report of scores, every text escaped, nothing loaded from elsewhere."""

from __future__ import annotations

from typing import Any

from medcalib import __version__
from medcalib.report.comparison.figures import fronts, rank_diagrams, sweep_figures
from medcalib.report.comparison.marks import places
from medcalib.report.comparison.verdicts import RULE, row_name
from medcalib.report.page_templates import environment, script_hash, template_text
from medcalib.report.paired import judged, p_text

Numbers = dict[str, Any]


def page_html(results: Numbers, title: str = "Comparison of calibration methods") -> str:
    """The page as one text, from the content of `results.json` alone."""
    templates = environment()
    templates.globals |= {"row_name": row_name, "judged": judged, "p_text": p_text}
    script = template_text("script.js")
    columns = results["columns"]
    page: str = templates.get_template("comparison.html.j2").render(
        title=title,
        r=results,
        columns=columns,
        places={column["key"]: places(results["rows"], column) for column in columns},
        facts=list(_flat(results["plan"]["config"])),
        options={name: dict(_flat(options)) for name, options in results["plan"]["methods"].items()},
        fronts=fronts(results),
        diagrams=rank_diagrams(results),
        sweeps=sweep_figures(results),
        rule=RULE,
        version=__version__,
        style=template_text("style.css"),
        script=script,
        script_hash=script_hash(script),
    )
    return page.strip() + "\n"


def _flat(value: Numbers, prefix: str = "") -> list[tuple[str, Any]]:
    """Nested options as dotted names, without what is null or empty."""
    found: list[tuple[str, Any]] = []
    for key, entry in value.items():
        if entry is None or entry in ({}, []):
            continue
        name = f"{prefix}{key}"
        found += _flat(entry, f"{name}.") if isinstance(entry, dict) else [(name, entry)]
    return found
