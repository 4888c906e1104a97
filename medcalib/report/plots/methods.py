"""Methods side by side: overlap and calibration at once."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from medcalib.report.plots.cases import main_region
from medcalib.report.plots.style import COLORS, MARKERS, finish, new_axes, plain

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Numbers = dict[str, Any]
SIZES = (9.0, 7.5, 6.0)  # of markers, in turn: one below another stays visible as a rim


def plot_method_comparison(scores: Sequence[Numbers], ax: Axes | None = None) -> Axes:
    """One point a method: pooled ECE of the main region against mean foreground Dice, with 95 % intervals.

    `scores` are contents of `scores.json`. Read from it: lower is better calibrated, further right segments
    better. The intervals are each method's own: whether methods differ on the same cases, the paired differences
    of the report tell. Markers are hollow and of different sizes, so that methods with equal numbers stay visible.
    """
    ax = new_axes(4.2, 3.1) if ax is None else ax
    for number, entry in enumerate(scores):
        region = main_region(entry)
        dice = entry["mean"].get("dice", {}).get("foreground", {})
        ece = entry["pooled"][region] if region else {}
        if dice.get("value") is None or ece.get("ece") is None:
            continue
        ax.errorbar(
            [dice["value"]],
            [ece["ece"]],
            xerr=_reach(dice["value"], dice["low"], dice["high"]),
            yerr=_reach(ece["ece"], ece["ece_low"], ece["ece_high"]),
            fmt=MARKERS[number % len(MARKERS)],
            color=COLORS[number % len(COLORS)],
            mfc="none",
            mew=1.8,
            ms=SIZES[number % len(SIZES)],
            lw=1.1,
            capsize=2.5 + number % 3,
            label=plain(_name(entry)),
        )
    ax.set_xlabel("mean Dice of the foreground classes (95 % interval)")
    regions = ", ".join(sorted({main_region(entry) or "" for entry in scores} - {""}))
    ax.set_ylabel(f"pooled ECE, {plain(regions or 'no region')} (95 % interval)", fontsize=8.5)
    ax.autoscale()
    ax.margins(0.08)
    ax.set_ylim(0, ax.get_ylim()[1])
    finish(ax)
    return ax


def _name(entry: Numbers) -> str:
    name = str(entry.get("method", {}).get("name", "")) or "method"
    return f"{name} (n = {entry['n_scored']} cases)" if "n_scored" in entry else name


def _reach(value: float, low: float | None, high: float | None) -> NDArray[np.float64] | None:
    if low is None or high is None:
        return None
    return np.array([[max(value - low, 0.0)], [max(high - value, 0.0)]])
