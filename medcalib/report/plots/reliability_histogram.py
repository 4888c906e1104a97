"""The dataset reliability histogram: reliability diagrams of all cases as one heat map."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from medcalib.metrics.calibration import CalibrationCounts, Edges
from medcalib.report.plots.style import SOFT, new_axes, plain

if TYPE_CHECKING:
    from matplotlib.axes import Axes

EMPTY = "#f6f7f9"  # light on dark pages too: the cells of most cases are dark


def reliability_histogram(
    cases: Sequence[CalibrationCounts], *, channel: int = 0, bins: int = 15, edges: Edges = "right"
) -> NDArray[np.int64]:
    """Number of cases (bins, bins) by accuracy bin (rows, from 0) and confidence bin (columns).

    Every bin of a case that holds a voxel adds 1, whatever its size: small cases weigh as much as large ones. An
    accuracy of 1 belongs to the last bin. Reference: T. Barfoot et al., Average Calibration Error, MICCAI 2024.
    """
    found = np.zeros((bins, bins), np.int64)
    for counts in cases:
        curve = counts.reliability(channel, bins=bins, edges=edges)
        columns = np.flatnonzero(curve.n.numpy() > 0)
        rate = curve.accuracy.numpy()[columns] / curve.n.numpy()[columns]
        np.add.at(found, (np.minimum((rate * bins).astype(int), bins - 1), columns), 1)
    return found


def plot_reliability_histogram(
    cases: Sequence[CalibrationCounts],
    ax: Axes | None = None,
    *,
    channel: int = 0,
    bins: int = 15,
    edges: Edges = "right",
    region: str = "",
) -> Axes:
    """Heat map over cases: how many have an accuracy (y) in each bin of confidence (x).

    Read from it: dark cells along the diagonal mean that single cases are calibrated, not only their pool; a tall
    column means that a confidence stands for different accuracies in different patients; a column below the
    diagonal is overconfident in most cases. `channel` as in `plot_reliability`; n is the number of cases.
    """
    from matplotlib import colormaps
    from matplotlib.ticker import MaxNLocator

    ax = new_axes(3.5, 3.2) if ax is None else ax
    table = reliability_histogram(cases, channel=channel, bins=bins, edges=edges)
    sides = np.linspace(0, 1, bins + 1)
    shown = np.ma.masked_equal(table, 0)
    mesh = ax.pcolormesh(sides, sides, shown, cmap=colormaps["cividis_r"], vmin=0, vmax=max(int(table.max()), 1))
    ax.plot((0, 1), (0, 1), color=SOFT, lw=0.9, ls=(0, (4, 3)), gid="diagonal")
    ax.set(xlim=(0, 1), ylim=(0, 1), aspect="equal")
    ax.set_xlabel("confidence" if channel == 0 else "predicted probability")
    ax.set_ylabel("accuracy of a case" if channel == 0 else "frequency of the class in a case")
    ax.set_title(plain(f"{region}, n = {len(cases)} cases".lstrip(", ")), fontsize=9.5, loc="left")
    ax.set_facecolor(EMPTY)
    bar = ax.figure.colorbar(mesh, cax=ax.inset_axes((1.04, 0, 0.05, 1)), label="cases")
    bar.ax.yaxis.set_major_locator(MaxNLocator(nbins=5, integer=True))
    bar.outline.set_linewidth(0.5)
    return ax
