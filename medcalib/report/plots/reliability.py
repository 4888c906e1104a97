"""The reliability diagram, with its intervals over patients and its voxel counts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from medcalib.metrics.calibration import CalibrationCounts, Edges, Reliability
from medcalib.metrics.intervals import MIN_PATIENTS, RESAMPLES
from medcalib.report.plots.style import BAR, COLORS, GRID, SOFT, log_counts, new_axes, plain

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Array = NDArray[np.float64]
PerCase = Sequence[tuple[str, CalibrationCounts]]
PLACE = (0.17, 0.3, 0.79, 0.62)  # of a diagram in its figure, with room for the strip of counts


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

    Read from it: points on the dashed diagonal are calibrated, points below it overconfident; how much a bin
    weighs is in the strip. `channel` 0 is the top label, k + 1 is class k (its frequency against its probability).
    With a known posterior the true curve is drawn too. `per_case` (patient_id, counts) adds the band of 95 % intervals
    over patients. `region` is the title.
    """
    ax = new_axes(3.1, 3.9, PLACE) if ax is None else ax
    draw_diagonal(ax)
    curve = counts.reliability(channel, bins=bins, edges=edges)
    x, y = points_of(curve)
    if per_case is not None and counts.voxels(channel):
        low, high = reliability_band(per_case, channel=channel, bins=bins, edges=edges)
        filled = curve.n.numpy() > 0
        draw_band(ax, x, low[filled], high[filled], COLORS[0])
    text = f"ECE {ece_of(counts, channel, bins, edges):.4f}" if x.size else "no voxel"
    ax.plot(x, y, color=COLORS[0], marker="o", ms=3.8, lw=1.4, label=text, zorder=3, gid="reliability")
    if counts.has_posterior:
        true_x, true_y = points_of(counts.reliability(channel, bins=bins, edges=edges, true=True))
        text = f"true ECE {ece_of(counts, channel, bins, edges, true=True):.4f}"
        look: dict[str, Any] = {"color": COLORS[1], "marker": "D", "ms": 3, "lw": 1.1, "ls": "--", "zorder": 4}
        ax.plot(true_x, true_y, label=text, gid="true", **look)
    frame(ax, region, "accuracy" if channel == 0 else "frequency of the class")
    count_strip(ax, curve, "confidence" if channel == 0 else "predicted probability")
    return ax


def reliability_band(
    per_case: PerCase, *, channel: int = 0, bins: int = 15, edges: Edges = "right"
) -> tuple[Array, Array]:
    """Ends (bins,) of 95 % percentile intervals of the accuracy, patients resampled.

    NaN where fewer than 3 patients fill a bin. `per_case`: for each case its patient and its counts.
    """
    patients = sorted({patient for patient, _ in per_case})
    voxels, hits = np.zeros((len(patients), bins)), np.zeros((len(patients), bins))
    for patient, counts in per_case:
        curve = counts.reliability(channel, bins=bins, edges=edges)
        voxels[patients.index(patient)] += curve.n.numpy()
        hits[patients.index(patient)] += curve.accuracy.numpy()
    return rate_band(hits, voxels)


def rate_band(sums: Array, voxels: Array) -> tuple[Array, Array]:
    """Ends (bins,) of 95 % percentile intervals of sum(sums) / sum(voxels) from (patients, bins), patients resampled.

    NaN where fewer than 3 patients fill a bin.
    """
    patients, bins = voxels.shape
    low, high = np.full(bins, np.nan), np.full(bins, np.nan)
    shown = (voxels > 0).sum(0) >= MIN_PATIENTS
    if not shown.any():
        return low, high
    share = np.full(patients, 1 / patients)
    drawn = np.random.default_rng(0).multinomial(patients, share, size=RESAMPLES).astype(np.float64)
    total = drawn @ voxels[:, shown]
    rate = np.divide(drawn @ sums[:, shown], total, out=np.full_like(total, np.nan), where=total > 0)
    low[shown], high[shown] = np.nanpercentile(rate, (2.5, 97.5), axis=0)
    return low, high


def points_of(curve: Reliability) -> tuple[Array, Array]:
    """Mean confidence and accuracy of the bins that hold voxels."""
    filled = curve.n > 0
    n = curve.n[filled]
    return (curve.confidence[filled] / n).numpy(), (curve.accuracy[filled] / n).numpy()


def ece_of(counts: CalibrationCounts, channel: int, bins: int, edges: Edges, *, true: bool = False) -> float:
    """The ECE of the top label (channel 0) or of a class; `true`: against the known posterior."""
    if channel == 0:
        return counts.ece(bins, edges, true=true)
    return float(counts.classwise_ece(bins, edges, true=true)[channel - 1])


def draw_diagonal(ax: Axes) -> None:
    """The line of perfect calibration."""
    ax.plot((0, 1), (0, 1), color=SOFT, lw=0.9, ls=(0, (4, 3)), zorder=1, gid="diagonal")


def draw_band(ax: Axes, x: Array, low: Array, high: Array, color: str) -> None:
    """Intervals as a band with its ends marked at each point; gaps where an interval is unknown."""
    ax.fill_between(x, low, high, color=color, alpha=0.16, lw=0, zorder=1, gid="band")
    ax.vlines(x, low, high, color=color, lw=0.9, alpha=0.8, zorder=2)


def frame(ax: Axes, title: str, ylabel: str) -> None:
    """The unit square, with the legend where no curve runs."""
    ax.set(xlim=(0, 1), ylim=(0, 1), aspect="equal", ylabel=ylabel)
    ax.set_title(plain(title), fontsize=9.5, loc="left")
    ax.tick_params(labelbottom=False)
    ax.grid(color=GRID, lw=0.6)
    ax.set_axisbelow(True)
    drawn = np.concatenate([np.asarray(line.get_xydata()) for line in ax.lines if line.get_gid() != "diagonal"])
    hidden = ((drawn[:, 0] < 0.62) & (drawn[:, 1] > 0.76)).any()
    place = "lower right" if hidden else "upper left"
    ax.legend(loc=place, fontsize=8, handlelength=1.8, borderaxespad=0.2)


def count_strip(ax: Axes, curve: Reliability, xlabel: str) -> None:
    """Voxels of each bin below the diagram."""
    strip = ax.inset_axes((0, -0.3, 1, 0.22))
    bins = len(curve.n)
    centers = (np.arange(bins) + 0.5) / bins
    strip.bar(centers, curve.n.numpy(), width=0.86 / bins, color=BAR, gid="voxels")
    strip.set(xlim=(0, 1), xlabel=f"{xlabel} (n = {int(curve.n.sum()):,})", ylabel="voxels")
    log_counts(strip, float(curve.n.max()))
    strip.tick_params(labelsize=8)
