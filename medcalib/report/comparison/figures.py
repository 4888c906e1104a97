"""The figures of the page as data URIs."""

from __future__ import annotations

import base64
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any

from medcalib.report.comparison.sweeps import as_number
from medcalib.report.comparison.verdicts import main_column, row_name
from medcalib.report.page_figures import Picture
from medcalib.report.plots import svg
from medcalib.report.plots.pareto import Spot, plot_pareto
from medcalib.report.plots.ranks import plot_mean_ranks
from medcalib.report.plots.sweep import Series, plot_sweep

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Numbers = dict[str, Any]


def fronts(results: Numbers) -> list[Picture]:
    """Dice against ECE, a figure a region."""
    found = []
    for key, front in results["pareto"].items():
        spots = _spots(results, key, {tuple(name) for name in front})
        region = key.partition("/")[2]
        draw = partial(plot_pareto, spots, region=region, markers=results["plan"]["calibrators"])
        names = ", ".join(row_name(name) for name in front)
        found.append(Picture(_uri(draw), f"Dice against pooled ECE {region}; on the front: {names}"))
    return found


def _spots(results: Numbers, key: str, front: set[tuple[str, ...]]) -> list[Spot]:
    methods, calibrators = list(results["plan"]["methods"]), results["plan"]["calibrators"]
    found = []
    for row in results["rows"]:
        dice, ece = row["values"].get("dice"), row["values"][key]
        if not dice or dice["value"] is None or ece["value"] is None:
            continue
        name = (row["method"], row["calibrator"])
        limits = (dice["low"], dice["high"]), (ece["low"], ece["high"])
        look = methods.index(name[0]), calibrators.index(name[1])
        found.append(Spot(row_name(row), *look, dice["value"], limits[0], ece["value"], limits[1], name in front))
    return found


def rank_diagrams(results: Numbers) -> list[Picture]:
    """Mean ranks over patients of the networks as they are: of Dice and of the ECE of each region shown."""
    labels = {column["key"]: column["label"] for column in results["columns"]}
    main = main_column(results)
    found = []
    for key in dict.fromkeys(["dice", main, "ece/all", "ece/foreground"]):
        ranks = results["ranks"]["none"]["by_patient"].get(key)
        if ranks is None or len(ranks["mean_ranks"]) < 2:
            continue
        draw = partial(
            plot_mean_ranks,
            ranks["mean_ranks"],
            critical_difference=ranks["critical_difference"],
            alike=ranks["alike"],
            title=f"{labels[str(key)]} of cases: mean rank over {ranks['blocks']} patients",
        )
        found.append(Picture(_uri(draw), f"Mean ranks of the methods in {labels[str(key)]}"))
    return found


def sweep_figures(results: Numbers) -> list[tuple[str, Picture]]:
    """Dice and ECE against the value of each swept option."""
    found = []
    for name, entries in results["sweeps"].items():
        values = [as_number(entry["value"]) for entry in entries]
        plain = [str(entry["value"]) for entry in entries]
        positions = plain if None in values else [value for value in values if value is not None]
        keys = [k for k in ("dice", main_column(results)) if k in {c["key"] for c in results["columns"]}]
        labels = {column["key"]: column["label"] for column in results["columns"]}
        panels = [(labels[str(key)], _series(results, entries, str(key))) for key in keys]
        if entries and panels:
            uri = _uri(partial(plot_sweep, name, positions, panels), tight=True)
            found.append((name, Picture(uri, f"Dice and ECE against {name}")))
    return found


def _series(results: Numbers, entries: list[Numbers], key: str) -> list[Series]:
    rows = {(row["method"], row["calibrator"]): row["values"][key] for row in results["rows"]}
    return [
        Series(
            "as it is" if calibrator == "none" else calibrator,
            *([rows[entry["label"], calibrator][part] for entry in entries] for part in ("value", "low", "high")),
        )
        for calibrator in results["plan"]["calibrators"]
    ]


def _uri(draw: Callable[[], Axes], *, tight: bool = True) -> str:
    return "data:image/svg+xml;base64," + base64.b64encode(svg(draw, tight=tight)).decode()
