"""Mean ranks of methods on one line, with those that a test does not tell apart joined (Demsar's diagram)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from medcalib.report.plots.style import COLORS, INK, SOFT, new_axes, plain

if TYPE_CHECKING:
    from matplotlib.axes import Axes

ROW = 0.19  # inches a method or bar


def plot_mean_ranks(
    mean_ranks: Mapping[str, float],
    ax: Axes | None = None,
    *,
    critical_difference: float | None = None,
    alike: Sequence[Sequence[str]] = (),
    title: str = "",
) -> Axes:
    """Methods at their mean rank, 1 (best) on the left; `alike`: sets of methods that a bar joins.

    `mean_ranks` by name of the method; `critical_difference` in ranks, as `medcalib.metrics.ranks` gives it.
    Read from it: two methods not joined by a bar differ by more than the critical difference, drawn on top.
    Reference: J. Demsar, JMLR 7, 2006, figure 1.
    """
    order = sorted(mean_ranks, key=lambda name: (mean_ranks[name], name))
    half = (len(order) + 1) // 2
    bars = len(alike)
    depth = bars * 0.5 + 0.6
    ax = new_axes(4.4, 0.4 + ROW * (half + depth)) if ax is None else ax
    last = max(len(order), 2)
    for k, name in enumerate(order):
        left = k < half
        level = -(depth + (k if left else len(order) - 1 - k))
        rank = mean_ranks[name]
        end = 1 - 0.03 * last if left else last + 0.03 * last
        ax.plot([rank, rank, end], [0, level, level], color=SOFT, lw=0.8, clip_on=False)
        text = f"{plain(name)}  {rank:.2f}" if left else f"{rank:.2f}  {plain(name)}"
        ax.text(end, level, f" {text} ", ha="right" if left else "left", va="center", fontsize=8)
    for k, members in enumerate(alike):
        ends = [mean_ranks[name] for name in members]
        y = -0.5 * (k + 0.8)
        ax.plot([min(ends) - 0.02, max(ends) + 0.02], [y, y], color=COLORS[1], lw=3, solid_capstyle="butt")
    if critical_difference is not None:
        _critical_difference(ax, critical_difference, last)
    _axis(ax, last, depth + half)
    if title:
        ax.set_title(plain(title), fontsize=9.5, loc="left", pad=44)
    return ax


def _critical_difference(ax: Axes, difference: float, last: int) -> None:
    """Its length, above the numbers of the axis."""
    height, shown = 0.34 / ROW, min(difference, last - 1.0)
    ax.plot([1, 1 + shown], [height, height], color=INK, lw=1.2, marker="|", ms=7, clip_on=False)
    more = "" if shown == difference else " (wider than the axis)"
    text = f"\N{NO-BREAK SPACE}\N{NO-BREAK SPACE}critical difference {difference:.2f}{more}"
    ax.text(1 + shown, height, text, va="center", fontsize=8)


def _axis(ax: Axes, last: int, depth: float) -> None:
    ax.set_xlim(1, last)
    ax.set_ylim(-depth, 0)
    ax.xaxis.tick_top()
    step = max(1, last // 10)
    ax.set_xticks(range(1, last + 1, step))
    ax.tick_params(axis="x", labelsize=8, pad=1)
    ax.set_yticks([])
    for side in ("left", "bottom", "right"):
        ax.spines[side].set_visible(False)
    ax.spines["top"].set_visible(True)
