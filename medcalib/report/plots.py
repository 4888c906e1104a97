"""Figures of calibration, drawn into given axes: `plot_x(..., ax=None) -> Axes`. No pyplot, no global state.

ax = plot_reliability(counts, region="foreground")
ax.figure.savefig("reliability.pdf", bbox_inches="tight")
"""

from __future__ import annotations

import io
import warnings
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, cast

import numpy as np
from numpy.typing import NDArray

from medcalib.errors import MissingExtraError
from medcalib.metrics.calibration import CalibrationCounts, Edges, Reliability
from medcalib.metrics.intervals import MIN_PATIENTS, RESAMPLES

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Array = NDArray[np.float64]
Numbers = dict[str, Any]
PerCase = Sequence[tuple[str, CalibrationCounts]]
# Okabe and Ito's colors without yellow, which vanishes on white paper.
COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
MARKERS = "osD^vPX"
STYLE = {
    "svg.hashsalt": "medcalib",  # equal figures give equal bytes
    "svg.fonttype": "none",
    "font.family": "sans-serif",
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.linewidth": 0.7,
    "legend.frameon": False,
}


def new_axes(width: float, height: float, at: tuple[float, float, float, float] | None = None) -> Axes:
    """Axes of a new figure (inches) that no window and no global state knows; `at` is their place in it."""
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise MissingExtraError("report", "matplotlib") from error
    figure = Figure(figsize=(width, height))
    return figure.add_axes(at) if at else figure.add_subplot()


def svg(draw: Callable[[], Axes], *, tight: bool = False) -> bytes:
    """The figure that `draw` makes, in the house style, as SVG bytes that depend on its content alone.

    `tight` fits the page to what is drawn; that draws twice.
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
    return stream.getvalue()


def plot_reliability(
    counts: CalibrationCounts,
    ax: Axes | None = None,
    *,
    channel: int = 0,
    bins: int = 15,
    edges: Edges = "right",
    region: str = "",
    per_case: PerCase | None = None,
) -> Axes:
    """Accuracy against mean confidence of each bin, over a strip of voxel counts on a log axis.

    `channel` 0 is the top label, k + 1 is class k. With a known posterior the true curve is drawn too.
    `per_case` (patient_id, counts) adds 95 % intervals over patients to the estimated curve.
    """
    ax = new_axes(3.1, 3.9, (0.17, 0.3, 0.79, 0.62)) if ax is None else ax
    ax.plot((0, 1), (0, 1), color="0.45", lw=0.9, ls=(0, (4, 3)), zorder=1, gid="diagonal")
    curve = counts.reliability(channel, bins=bins, edges=edges)
    x, y = _points(curve)
    if per_case is not None and counts.voxels(channel):
        low, high = reliability_band(per_case, channel=channel, bins=bins, edges=edges)
        filled = curve.n.numpy() > 0
        _draw_band(ax, x, y, low[filled], high[filled])
    ax.fill_between(x, x, y, color=COLORS[0], alpha=0.13, lw=0, zorder=1)
    text = f"ECE {_ece(counts, channel, bins, edges):.4f}" if x.size else "no voxel"
    ax.plot(x, y, color=COLORS[0], marker="o", ms=3.8, lw=1.4, label=text, zorder=3, gid="reliability")
    if counts.has_posterior:
        true_x, true_y = _points(counts.reliability(channel, bins=bins, edges=edges, true=True))
        text = f"true ECE {_ece(counts, channel, bins, edges, true=True):.4f}"
        line: Numbers = {"color": COLORS[1], "marker": "D", "ms": 3, "lw": 1.1, "ls": "--", "zorder": 4}
        ax.plot(true_x, true_y, label=text, gid="true", **line)
    _frame(ax, region, "accuracy" if channel == 0 else "frequency of the class")
    _count_strip(ax, curve, "confidence" if channel == 0 else "predicted probability")
    return ax


def reliability_band(
    per_case: PerCase, *, channel: int = 0, bins: int = 15, edges: Edges = "right"
) -> tuple[Array, Array]:
    """Ends (bins,) of 95 % percentile intervals of the accuracy, patients resampled.

    NaN where fewer than 3 patients fill a bin.
    """
    patients = sorted({patient for patient, _ in per_case})
    voxels, hits = np.zeros((len(patients), bins)), np.zeros((len(patients), bins))
    for patient, counts in per_case:
        curve = counts.reliability(channel, bins=bins, edges=edges)
        voxels[patients.index(patient)] += curve.n.numpy()
        hits[patients.index(patient)] += curve.accuracy.numpy()
    low, high = np.full(bins, np.nan), np.full(bins, np.nan)
    shown = (voxels > 0).sum(0) >= MIN_PATIENTS
    if not shown.any():
        return low, high
    share = np.full(len(patients), 1 / len(patients))
    drawn = np.random.default_rng(0).multinomial(len(patients), share, size=RESAMPLES).astype(np.float64)
    total = drawn @ voxels[:, shown]
    rate = np.divide(drawn @ hits[:, shown], total, out=np.full_like(total, np.nan), where=total > 0)
    low[shown], high[shown] = np.nanpercentile(rate, (2.5, 97.5), axis=0)
    return low, high


def plot_case_ece_against_dice(
    scores: Numbers, ax: Axes | None = None, *, color: str = COLORS[0], marker: str = "o"
) -> Axes:
    """One point a case: ECE of the main region against mean Dice of the foreground classes."""
    ax = new_axes(4.2, 3.1) if ax is None else ax
    region = main_region(scores)
    pairs = {name: (case_dice(scores, name), case_ece(scores, name)) for name in scores["cases"]}
    known = {name: pair for name, pair in pairs.items() if None not in pair}
    points = np.array(list(known.values()), np.float64).reshape(-1, 2)
    name = _plain(_name(scores))
    ax.scatter(points[:, 0], points[:, 1], s=24, color=color, marker=marker, alpha=0.85, lw=0, label=name)
    ax.set_xlabel("Dice of the case, mean of foreground classes")
    ax.set_ylabel(f"ECE of the case ({_plain(region or 'no region')})")
    _finish(ax)
    return ax


def plot_method_comparison(scores: Sequence[Numbers], ax: Axes | None = None) -> Axes:
    """One point a method: pooled ECE of the main region against mean foreground Dice, with 95 % intervals."""
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
            ms=6,
            lw=1.2,
            capsize=3,
            label=_plain(_name(entry)),
        )
    ax.set_xlabel("mean Dice of the foreground classes (95 % interval)")
    regions = ", ".join(sorted({main_region(entry) or "" for entry in scores} - {""}))
    ax.set_ylabel(f"pooled ECE, {_plain(regions or 'no region')} (95 % interval)")
    _finish(ax)
    return ax


def main_region(scores: Numbers) -> str | None:
    """The region that summaries speak of; None where nothing was scored.

    The predicted foreground comes first: its choice does not depend on the reference, so that a perfectly
    calibrated network scores 0 there; on the union with the reference it would be called overconfident.
    """
    regions = list(scores["pooled"])
    return next((name for name in ("pred_foreground", "foreground", *regions) if name in regions), None)


def case_ece(scores: Numbers, case_id: str) -> float | None:
    """ECE of a case in the main region."""
    region = main_region(scores)
    value: float | None = scores["cases"][case_id]["regions"][region]["ece"] if region else None
    return value


def case_dice(scores: Numbers, case_id: str) -> float | None:
    """Mean Dice of the foreground classes (composites apart) that are defined in a case."""
    dice = scores["cases"][case_id]["dice"]
    known = [dice[name] for name in scores["settings"]["classes"][1:] if dice[name] is not None]
    return sum(known) / len(known) if known else None


def _points(curve: Reliability) -> tuple[Array, Array]:
    filled = curve.n > 0
    n = curve.n[filled]
    return (curve.confidence[filled] / n).numpy(), (curve.accuracy[filled] / n).numpy()


def _ece(counts: CalibrationCounts, channel: int, bins: int, edges: Edges, *, true: bool = False) -> float:
    if channel == 0:
        return counts.ece(bins, edges, true=true)
    return float(counts.classwise_ece(bins, edges, true=true)[channel - 1])


def _draw_band(ax: Axes, x: Array, y: Array, low: Array, high: Array) -> None:
    known = np.isfinite(low)
    reach = np.abs(np.clip([y - low, high - y], 0, None))[:, known]
    look: Numbers = {"fmt": "none", "ecolor": COLORS[0], "elinewidth": 0.9, "capsize": 2, "zorder": 2}
    ax.errorbar(x[known], y[known], yerr=reach, **look)


def _frame(ax: Axes, region: str, ylabel: str) -> None:
    ax.set(xlim=(0, 1), ylim=(0, 1), aspect="equal", ylabel=ylabel)
    ax.set_title(_plain(region), fontsize=9.5, loc="left")
    ax.tick_params(labelbottom=False)
    ax.grid(color="0.9", lw=0.6)
    ax.set_axisbelow(True)
    drawn = np.concatenate([np.asarray(line.get_xydata()) for line in ax.lines if line.get_gid() != "diagonal"])
    hidden = ((drawn[:, 0] < 0.62) & (drawn[:, 1] > 0.76)).any()
    place = "lower right" if hidden else "upper left"
    ax.legend(loc=place, fontsize=8, handlelength=1.8, borderaxespad=0.2)


def _count_strip(ax: Axes, curve: Reliability, xlabel: str) -> None:
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    strip = ax.inset_axes((0, -0.3, 1, 0.22))
    bins = len(curve.n)
    centers = (np.arange(bins) + 0.5) / bins
    strip.bar(centers, curve.n.numpy(), width=0.86 / bins, color="0.55", gid="voxels")
    largest = max(float(curve.n.max()), 1.0)
    strip.set(xlim=(0, 1), ylim=(0.8, largest * 3), xlabel=xlabel, ylabel="voxels")
    strip.set_yscale("log")  # after the limits: without a voxel there are none to find
    strip.yaxis.set_major_locator(LogLocator(numticks=3))
    strip.yaxis.set_major_formatter(FuncFormatter(_short))
    strip.yaxis.set_minor_formatter(NullFormatter())
    strip.tick_params(labelsize=8)
    strip.tick_params(which="minor", left=False)


def _short(count: float, _: int | None = None) -> str:
    """1, 100, 10k, 1M: plain text draws faster than powers of ten."""
    for unit, letter in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if count >= unit:
            return f"{count / unit:g}{letter}"
    return f"{count:g}"


def _reach(value: float, low: float | None, high: float | None) -> Array | None:
    if low is None or high is None:
        return None
    return np.array([[max(value - low, 0.0)], [max(high - value, 0.0)]])


def _finish(ax: Axes) -> None:
    ax.autoscale()  # the axes may hold points of an earlier call
    ax.margins(0.08)
    ax.set_ylim(0, ax.get_ylim()[1])
    ax.grid(color="0.9", lw=0.6)
    ax.set_axisbelow(True)
    if ax.get_legend_handles_labels()[0]:
        ax.legend(fontsize=8, loc="center left", bbox_to_anchor=(1.0, 0.5))


def _name(scores: Numbers) -> str:
    return str(scores.get("method", {}).get("name", "")) or "method"


def _plain(text: str) -> str:
    """Text that matplotlib and XML take literally: no formulas, no control characters."""
    return "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in text).replace("$", r"\$")
