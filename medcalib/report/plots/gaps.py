"""Where a method is over- or underconfident: signed gaps with intervals, one row a place."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from medcalib.report.plots.style import COLORS, GRID, INK, MARKERS, SOFT, new_axes, plain

if TYPE_CHECKING:
    from matplotlib.axes import Axes


class Gap(NamedTuple):
    """Mean confidence minus accuracy of the voxels that `where` says: `value` in [-1, 1], above 0 overconfident.

    Its 95 % interval is `low` to `high`; None where unknown. `of_class`: mean probability of a class minus its
    frequency.
    """

    where: str
    value: float | None
    low: float | None = None
    high: float | None = None
    of_class: bool = False


def plot_gaps(methods: Sequence[tuple[str, Sequence[Gap]]], ax: Axes | None = None) -> Axes:
    """One row a region or class, one mark a method: mean confidence minus accuracy with its 95 % interval.

    In the row of a class it is the mean probability of the class minus its frequency.
    `methods` are (name, gaps); rows are those of the first method that names them. Read from it: right of the
    line is overconfident, left of it underconfident; an interval across the line leaves the sign open. A gap can
    be 0 where over- and underconfident bins cancel: the ECE tells.
    """
    rows = list(dict.fromkeys(gap.where for _, gaps in methods for gap in gaps))
    ax = new_axes(4.9, 0.8 + len(rows) * (0.15 + 0.075 * len(methods))) if ax is None else ax
    ax.axvline(0, color=INK, lw=0.9, zorder=1)
    for number, (name, gaps) in enumerate(methods):
        known = [(gap, gap.value) for gap in gaps if gap.value is not None]
        offset = 0.7 * ((number + 0.5) / max(len(methods), 1) - 0.5)
        y = [rows.index(gap.where) + offset for gap, _ in known]
        color, marker = COLORS[number % len(COLORS)], MARKERS[number % len(MARKERS)]
        for at, (gap, _) in zip(y, known, strict=True):
            if gap.low is not None and gap.high is not None:
                ax.plot((gap.low, gap.high), (at, at), color=color, lw=1.6, solid_capstyle="butt", zorder=2)
        look: dict[str, Any] = {"ls": "", "marker": marker, "ms": 5, "color": color, "zorder": 3}
        ax.plot([value for _, value in known], y, label=plain(name), gid=f"gap {number}", **look)
    reach = 1.15 * max([0.01, *(abs(x) for _, gaps in methods for gap in gaps for x in gap[1:4] if x is not None)])
    ax.set(
        xlim=(-reach, reach),
        ylim=(len(rows) - 0.4, -0.6),
        xlabel=_what({gap.of_class for _, gaps in methods for gap in gaps}),
    )
    ax.set_yticks(range(len(rows)), [plain(row) for row in rows])
    ax.tick_params(axis="y", length=0)
    ax.spines["left"].set_visible(False)
    ax.grid(axis="x", color=GRID, lw=0.6)
    for k in range(len(rows) - 1):
        ax.axhline(k + 0.5, color=GRID, lw=0.6, zorder=0)
    ax.set_axisbelow(True)
    for x, text, side in ((0, "underconfident", "left"), (1, "overconfident", "right")):
        ax.text(x, 1.005, text, transform=ax.transAxes, ha=side, va="bottom", fontsize=8.5, color=SOFT)
    if len(methods) > 1:
        ax.legend(fontsize=8, loc="lower center", bbox_to_anchor=(0.5, 1.04), ncols=min(len(methods), 4))
    return ax


def _what(of_class: set[bool]) -> str:
    parts = {False: "mean confidence minus accuracy", True: "mean probability minus frequency"}
    if len(of_class) < 2:
        return f"{parts[True in of_class]} (95 % interval)"
    return f"{parts[False]}; of a class,\n{parts[True]} (95 % interval)"
