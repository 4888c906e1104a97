"""What all figures share: colors, markers, new axes without global state, and SVG that is readable on dark pages."""

from __future__ import annotations

import io
import warnings
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, cast

from medcalib.errors import MissingExtraError

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Okabe and Ito's colors without yellow, which vanishes on white paper.
COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#17202a")
MARKERS = "osD^vPX"
DASHES: tuple[Any, ...] = ("-", (0, (5, 2)), (0, (1.5, 1.5)), "-.", (0, (7, 2, 1, 2, 1, 2)), (0, (3, 4)), "-")
INK, SOFT, GRID, PAPER, BAR = "#17202a", "#66727f", "#e3e7eb", "#ffffff", "#8e98a3"
DARK = {INK: "#e4e8ec", SOFT: "#9ba8b5", GRID: "#38424d", PAPER: "#1c232b", COLORS[0]: "#4ba6dd"}
STYLE = {
    "svg.hashsalt": "medcalib",  # equal figures give equal bytes
    "svg.fonttype": "none",
    "font.family": "sans-serif",
    "font.size": 9,
    "text.color": INK,
    "axes.labelcolor": INK,
    "axes.edgecolor": INK,
    "xtick.color": INK,
    "ytick.color": INK,
    "figure.facecolor": PAPER,
    "savefig.facecolor": PAPER,
    "axes.facecolor": "none",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.linewidth": 0.7,
    "legend.frameon": False,
}


def new_axes(width: float, height: float, at: tuple[float, float, float, float] | None = None) -> Axes:
    """Axes of a new figure (inches) that no window and no global state knows; `at` is their place in it.

    `width` and `height` are those of the figure. Raises `MissingExtraError` without matplotlib.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise MissingExtraError("report", "matplotlib") from error
    figure = Figure(figsize=(width, height))
    return figure.add_axes(at) if at else figure.add_subplot()


def svg(draw: Callable[[], Axes], *, tight: bool = False) -> bytes:
    """The figure that `draw` makes, in the house style, as SVG bytes that depend on its content alone.

    `tight` fits the page to what is drawn; that draws twice. Where a reader prefers dark pages, paper, ink and
    grid change their colors. Raises `MissingExtraError` without matplotlib.
    """
    try:
        import matplotlib as mpl
    except ImportError as error:
        raise MissingExtraError("report", "matplotlib") from error
    stream = io.BytesIO()
    with warnings.catch_warnings(), mpl.rc_context(STYLE):
        # text stays text in the SVG: a glyph that matplotlib's own font lacks is drawn by the reader's font
        warnings.filterwarnings("ignore", message="Glyph .* missing from")
        no_date = {"Date": None, "Creator": None}
        figure = cast("Figure", draw().figure)
        figure.savefig(stream, format="svg", bbox_inches="tight" if tight else None, metadata=no_date)
    head, tag, rest = stream.getvalue().partition(b"<defs>")
    return head + f"<style>{_dark_rules()}</style>".encode() + tag + rest


def finish(ax: Axes, *, legend: bool = True) -> None:
    """Grid behind, and a legend below the axes where something is named: beside them it would take their width."""
    ax.grid(color=GRID, lw=0.6)
    ax.set_axisbelow(True)
    if legend and ax.get_legend_handles_labels()[0]:
        ax.legend(fontsize=8, loc="upper left", bbox_to_anchor=(0, -0.2))


def plain(text: str) -> str:
    """Text that matplotlib and XML take literally: no formulas, no control characters."""
    return "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in text).replace("$", r"\$")


def short(count: float, _: int | None = None) -> str:
    """1, 100, 10k, 1M: plain text draws faster than powers of ten."""
    for unit, letter in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if count >= unit:
            return f"{count / unit:g}{letter}"
    return f"{count:g}"


def log_counts(ax: Axes, largest: float) -> None:
    """A log axis of voxel counts from just below 1, with few ticks in plain text."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    ax.set_ylim(0.8, max(largest, 1.0) * 3)
    ax.set_yscale("log")  # after the limits: without a voxel there are none to find
    ax.yaxis.set_major_locator(LogLocator(numticks=4))
    ax.yaxis.set_major_formatter(FuncFormatter(short))
    ax.yaxis.set_minor_formatter(NullFormatter())
    ax.tick_params(which="minor", left=False)


def _dark_rules() -> str:
    # the backend writes colors into style attributes; only !important overrides those
    rules = (
        f'[style*="{what}: {light.lower()}"]{{{what}:{dark}!important}}'
        for light, dark in DARK.items()
        for what in ("fill", "stroke")
    )
    return f"@media screen and (prefers-color-scheme:dark){{{''.join(rules)}}}"
