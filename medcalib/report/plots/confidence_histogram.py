"""How confident a method is, where it is right and where it is wrong."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from medcalib.metrics.calibration import CalibrationCounts, Edges
from medcalib.report.plots.style import COLORS, INK, finish, log_counts, new_axes, plain

if TYPE_CHECKING:
    from matplotlib.axes import Axes


def plot_confidence_histogram(
    counts: CalibrationCounts,
    ax: Axes | None = None,
    *,
    channel: int = 0,
    bins: int = 15,
    edges: Edges = "right",
    region: str = "",
) -> Axes:
    """Voxels by confidence on a log axis, right and wrong ones apart, with mean confidence and accuracy as lines.

    Read from it: the distance of the two vertical lines is the gap (accuracy left of confidence: overconfident);
    wrong voxels at the right end are confident errors. `channel` 0 is the top label; k + 1 is class k, whose voxels
    and those of others stand for right and wrong, by its probability. n is the number of voxels.
    """
    ax = new_axes(3.6, 2.9) if ax is None else ax
    curve = counts.reliability(channel, bins=bins, edges=edges)
    n, hits = curve.n.numpy(), curve.accuracy.numpy()
    sides = np.linspace(0, 1, bins + 1)
    names = ("right", "wrong") if channel == 0 else ("of the class", "of others")
    ax.stairs(n - hits, sides, fill=True, color=COLORS[1], alpha=0.25, lw=0)
    for values, name, color, dash in ((hits, names[0], COLORS[0], "-"), (n - hits, names[1], COLORS[1], (0, (4, 1.5)))):
        ax.stairs(values, sides, color=color, lw=1.5, ls=dash, label=name, gid=name)
    if n.sum():
        means = float(curve.confidence.sum() / n.sum()), float(hits.sum() / n.sum())
        rate = "accuracy" if channel == 0 else "frequency"
        ax.axvline(means[0], color=INK, lw=1, label=f"mean confidence {means[0]:.3f}", gid="confidence")
        ax.axvline(means[1], color=INK, lw=1, ls=(0, (1.5, 1.5)), label=f"{rate} {means[1]:.3f}", gid="accuracy")
    log_counts(ax, float(n.max()))
    ax.set(xlim=(0, 1), xlabel="confidence" if channel == 0 else "predicted probability", ylabel="voxels")
    ax.set_title(plain(f"{region}, n = {n.sum():,.0f} voxels".lstrip(", ")), fontsize=9.5, loc="left")
    finish(ax, legend=False)
    ax.legend(fontsize=8, loc="upper left", bbox_to_anchor=(0, -0.2), ncols=2)
    return ax
