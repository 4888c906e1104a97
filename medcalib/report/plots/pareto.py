"""Overlap against calibration of many rows, with the front of those that no other row beats in both."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple, cast

import numpy as np

from medcalib.report.plots.style import COLORS, INK, MARKERS, SOFT, finish, new_axes, plain

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Limits = tuple[float | None, float | None]
NAMED = 40  # more labels cannot be told apart
FONT = 7.0
_SIDES = ((1, 1), (1, -1), (-1, 1), (-1, -1), (1, 0), (-1, 0), (0, 1), (0, -1))
_REACHES = (5, 12, 22, 34)  # points from the marker


class Spot(NamedTuple):
    """One row: its name, and the indices of its `color` and `marker`.

    `dice` and `ece` with the ends of their 95 % intervals, `dice_limits` and `ece_limits`; `on_front`: whether no other
    row is better in both.
    """

    name: str
    color: int
    marker: int
    dice: float
    dice_limits: Limits
    ece: float
    ece_limits: Limits
    on_front: bool


def plot_pareto(
    spots: Sequence[Spot], ax: Axes | None = None, *, region: str = "", markers: Sequence[str] = ()
) -> Axes:
    """One cross a row (95 % intervals), the front joined by a line; `markers` name what the markers stand for.

    Read from it: rows on the line are those to choose from, further right segments better, lower is better
    calibrated. The line joins values; where crosses overlap, another sample of patients may change it. Names
    that would lie over others are left out. `spots` are the rows.
    """
    ax = new_axes(5.6, 4.2) if ax is None else ax
    for spot in spots:
        _cross(ax, spot)
    front = sorted((spot.dice, spot.ece) for spot in spots if spot.on_front)
    ax.plot(*np.array(front).reshape(-1, 2).T, color=INK, lw=1, ls=(0, (4, 2)), zorder=1, label="front")
    for k, name in enumerate(markers):
        ax.plot([], [], ls="none", color=INK, mfc="none", marker=MARKERS[k % len(MARKERS)], label=plain(name))
    ax.set_xlabel("Dice, mean of foreground classes and cases")
    ax.set_ylabel(f"pooled ECE{f', {plain(region)}' if region else ''}")
    ax.margins(0.1)
    finish(ax, legend=False)
    ax.legend(fontsize=8, loc="upper left", bbox_to_anchor=(0, -0.13), ncols=4)
    _name(ax, spots)
    return ax


def _cross(ax: Axes, spot: Spot) -> None:
    color = COLORS[spot.color % len(COLORS)]
    for at in ((spot.dice_limits, [spot.ece] * 2), ([spot.dice] * 2, spot.ece_limits)):
        if None not in (*at[0], *at[1]):
            ax.plot(*at, color=color, lw=0.8, alpha=0.35, zorder=2)
    ax.plot(
        [spot.dice],
        [spot.ece],
        ls="none",
        marker=MARKERS[spot.marker % len(MARKERS)],
        color=color,
        mfc=color if spot.on_front else "none",
        mew=1.4,
        ms=6,
        zorder=3,
    )


def _name(ax: Axes, spots: Sequence[Spot]) -> None:
    """Labels in the first free place around their marker, rows on the front first."""
    figure = cast("Figure", ax.figure)
    width, height = figure.get_size_inches() * 72
    box = ax.get_position()
    (x0, x1), (y0, y1) = ax.get_xlim(), ax.get_ylim()
    left, right = box.x0 * width, box.x1 * width
    low, high = box.y0 * height, box.y1 * height

    def place(spot: Spot) -> tuple[float, float]:
        across = (spot.dice - x0) / (x1 - x0) * (right - left) + left
        return across, (spot.ece - y0) / (y1 - y0) * (high - low) + low

    taken = [(x - 3, y - 3, x + 3, y + 3) for x, y in map(place, spots)]
    for spot in sorted(spots, key=lambda s: not s.on_front)[:NAMED]:
        x, y = place(spot)
        w, h = len(spot.name) * FONT * 0.6, FONT * 1.1
        for reach in _REACHES:
            for dx, dy in _SIDES:
                cx = x + dx * (reach + w / 2)
                cy = y + dy * (reach + h / 2)
                here = (cx - w / 2, cy - h / 2, cx + w / 2, cy + h / 2)
                inside = here[0] >= left and here[2] <= right + 40 and here[1] >= low and here[3] <= high + 12
                if inside and not any(_overlap(here, other) for other in taken):
                    break
            else:
                continue
            taken.append(here)
            _draw_name(ax, spot, (cx - x, cy - y), far=reach > _REACHES[0])
            break


def _draw_name(ax: Axes, spot: Spot, offset: tuple[float, float], *, far: bool) -> None:
    ax.annotate(
        plain(spot.name),
        (spot.dice, spot.ece),
        xytext=offset,
        textcoords="offset points",
        ha="center",
        va="center",
        fontsize=FONT,
        color=INK if spot.on_front else SOFT,
        arrowprops={"arrowstyle": "-", "lw": 0.4, "color": SOFT, "shrinkA": 0, "shrinkB": 3} if far else None,
        zorder=4,
    )


def _overlap(one: tuple[float, ...], other: tuple[float, ...]) -> bool:
    return one[0] < other[2] and other[0] < one[2] and one[1] < other[3] and other[1] < one[3]
