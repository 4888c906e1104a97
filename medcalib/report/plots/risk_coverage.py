"""The risk-coverage curve: what is gained by leaving the least confident voxels to a reader."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from medcalib.metrics.calibration import CalibrationCounts
from medcalib.metrics.selective import aurc, risk_coverage
from medcalib.report.plots.style import COLORS, DASHES, SOFT, finish, new_axes, plain

if TYPE_CHECKING:
    from matplotlib.axes import Axes


def plot_risk_coverage(
    counts: CalibrationCounts, ax: Axes | None = None, *, name: str = "", region: str = "", number: int = 0
) -> Axes:
    """Error rate among the most confident voxels against the share of voxels kept.

    Read from it: at coverage 1 stands the error rate of all voxels; the faster the curve falls to the left, the
    better confidence orders right before wrong. The gray line is the best order with as many errors, a flat line
    an order by chance. Calibration does not enter: temperature scaling moves the curve little. `name` goes into the
    legend with the number of voxels and the area under the curve; `number` picks color and dash when several methods
    share axes.
    """
    ax = new_axes(3.6, 2.9) if ax is None else ax
    curve = risk_coverage(counts)
    if curve.coverage.size:
        _draw_best(ax, float(curve.risk[-1]))
        text = f"{name} (n = {counts.voxels():,}), AURC {aurc(counts):.4f}".lstrip()
        look = {"color": COLORS[number % len(COLORS)], "ls": DASHES[number % len(DASHES)]}
        ax.plot(curve.coverage, curve.risk, lw=1.5, label=plain(text), gid=f"risk {number}", **look)
    ax.set(xlim=(0, 1), xlabel="coverage: share of voxels kept, most confident first", ylabel="error rate of those")
    ax.relim()
    ax.autoscale(axis="y")
    ax.set_ylim(0, max(ax.get_ylim()[1], 1e-3))
    ax.set_title(plain(region), fontsize=9.5, loc="left")
    finish(ax, legend=False)
    if ax.get_legend_handles_labels()[0]:
        ax.legend(fontsize=8, loc="upper left", bbox_to_anchor=(0, -0.2))
    return ax


def _draw_best(ax: Axes, error_rate: float) -> None:
    kept = np.linspace(1 - error_rate, 1, 30)
    risk = 1 - (1 - error_rate) / np.maximum(kept, 1e-12)
    ax.plot(np.r_[0, kept], np.r_[0, risk], color=SOFT, lw=0.9, ls=(0, (4, 3)), gid="best")
