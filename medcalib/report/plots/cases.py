"""Calibration and overlap of single cases."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from medcalib.report.plots.style import COLORS, finish, new_axes, plain

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Numbers = dict[str, Any]


def plot_case_ece_against_dice(
    scores: Numbers, ax: Axes | None = None, *, color: str = COLORS[0], marker: str = "o"
) -> Axes:
    """One point a case: ECE of the main region against mean Dice of the foreground classes.

    `scores` is the content of a `scores.json`; of independent regions, the ECE is the mean over channels. Read
    from it: whether badly segmented cases (left) are also the badly calibrated ones (high), and which cases stand
    out. n is the number of cases that have both numbers.
    """
    ax = new_axes(4.2, 3.1) if ax is None else ax
    region = main_region(scores)
    pairs = {name: (case_dice(scores, name), case_ece(scores, name)) for name in scores["cases"]}
    known = {name: pair for name, pair in pairs.items() if None not in pair}
    points = np.array(list(known.values()), np.float64).reshape(-1, 2)
    name = f"{scores.get('method', {}).get('name', '') or 'method'} (n = {len(points)})"
    look: Numbers = {"s": 26, "facecolors": color, "alpha": 0.8, "edgecolors": "none"}
    ax.scatter(points[:, 0], points[:, 1], marker=marker, label=plain(name), **look)
    ax.set_xlabel("Dice of the case, mean of foreground classes")
    ax.set_ylabel(f"ECE of the case, {plain(region or 'no region')}")
    ax.autoscale()  # the axes may hold points of an earlier call
    ax.margins(0.08)
    ax.set_ylim(0, ax.get_ylim()[1])
    finish(ax)
    return ax


def main_region(scores: Numbers) -> str | None:
    """The region that summaries speak of; None where nothing was scored.

    The predicted foreground comes first: its choice does not depend on the reference, so that a perfectly
    calibrated network scores 0 there; on the union with the reference it would be called overconfident.
    """
    regions = list(scores["pooled"])
    return next((name for name in ("pred_foreground", "foreground", *regions) if name in regions), None)


def case_ece(scores: Numbers, case_id: str) -> float | None:
    """ECE of the case `case_id` in the main region; of independent regions, the mean of their classwise ECE."""
    region = main_region(scores)
    if region is None:
        return None
    found = scores["cases"][case_id]["regions"][region]
    if scores["settings"].get("independent_channels"):
        return _mean_of(list(found["classwise_ece"].values())[1:])
    value: float | None = found["ece"]
    return value


def case_dice(scores: Numbers, case_id: str) -> float | None:
    """Mean Dice of the foreground classes (composites apart) that are defined in the case `case_id`."""
    dice = scores["cases"][case_id]["dice"]
    return _mean_of([dice[name] for name in scores["settings"]["classes"][1:]])


def _mean_of(values: list[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else None
