"""Overlap and calibration against the value of an option."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

from medcalib.report.plots.style import COLORS, DASHES, MARKERS, finish, new_axes, plain

if TYPE_CHECKING:
    from matplotlib.axes import Axes

DECADES = 10.0  # values whose ratio is at least this go on a log axis


class Series(NamedTuple):
    """A line: its name, and at each position of the option a number of `values` or None where it is absent.

    `lows` and `highs` are the ends of its 95 % interval.
    """

    name: str
    values: Sequence[float | None]
    lows: Sequence[float | None]
    highs: Sequence[float | None]


def plot_sweep(option: str, positions: Sequence[float | str], panels: Sequence[tuple[str, Sequence[Series]]]) -> Axes:
    """One panel a number (such as Dice and ECE), one line a series; returns the last panel's axes.

    Numbers go on an axis (a log one where they span a decade or more and are above 0), other values side by side.
    Bars are 95 % intervals over patients. `positions` are the values of the option, `panels` (label of the number, its
    series).
    """
    numbers = [p for p in positions if not isinstance(p, str)]
    numeric = len(numbers) == len(positions)
    places = numbers if numeric else [float(k) for k in range(len(positions))]
    width = 1 / max(len(panels), 1)
    ax = first = new_axes(3.3 * len(panels), 2.9, (0.2 * width, 0.3, 0.76 * width, 0.62))
    for k, (label, series) in enumerate(panels):
        if k:
            ax = first.figure.add_axes((k * width + 0.2 * width, 0.3, 0.76 * width, 0.62))
        for number, line in enumerate(series):
            _line(ax, places, line, number)
        ax.set_xlabel(plain(option))
        ax.set_ylabel(plain(label))
        if numeric and min(places) > 0 and max(places) / min(places) >= DECADES:
            ax.set_xscale("log")
        if numeric:
            ax.set_xticks(places, [f"{p:g}" for p in places])
        else:
            ax.set_xticks(places, [plain(str(p)) for p in positions])
        ax.minorticks_off()
        finish(ax, legend=k == 0 and len(series) > 1)
    return ax


def _line(ax: Axes, places: Sequence[float], line: Series, number: int) -> None:
    known = [
        (x, y, low, high)
        for x, y, low, high in zip(places, line.values, line.lows, line.highs, strict=True)
        if y is not None
    ]
    color = COLORS[number % len(COLORS)]
    for x, _, low, high in known:
        if low is not None and high is not None:
            ax.plot([x, x], [low, high], color=color, lw=1, alpha=0.5)
    ax.plot(
        [x for x, *_ in known],
        [y for _, y, *_ in known],
        color=color,
        ls=DASHES[number % len(DASHES)],
        marker=MARKERS[number % len(MARKERS)],
        ms=5,
        mfc="none",
        lw=1.3,
        label=plain(line.name),
    )
