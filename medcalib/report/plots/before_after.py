"""Reliability before and after a calibrator, in one diagram."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from medcalib.metrics.calibration import CalibrationCounts, Edges
from medcalib.report.plots.reliability import PLACE, count_strip, draw_diagonal, ece_of, frame, points_of
from medcalib.report.plots.style import COLORS, new_axes

if TYPE_CHECKING:
    from matplotlib.axes import Axes


def plot_before_after(
    before: CalibrationCounts,
    after: CalibrationCounts,
    ax: Axes | None = None,
    *,
    channel: int = 0,
    bins: int = 15,
    edges: Edges = "right",
    title: str = "",
    names: tuple[str, str] = ("before", "after"),
) -> Axes:
    """Two reliability curves of the same voxels: hollow squares before a calibrator, filled circles after it.

    Read from it: whether the curve moved towards the dashed diagonal, and where it did not; the ECE of each is in
    the legend. The strip counts voxels after the calibrator, which moves them between bins. `channel` as in
    `plot_reliability`. Raises ValueError for counts of different numbers of voxels. `names` are those of the two in the
    legend.
    """
    sizes = before.voxels(channel), after.voxels(channel)
    if sizes[0] != sizes[1]:
        raise ValueError(f"expected counts of the same voxels, got {sizes[0]:,} before and {sizes[1]:,} after")
    ax = new_axes(3.1, 3.9, PLACE) if ax is None else ax
    draw_diagonal(ax)
    hollow: dict[str, Any] = {"color": COLORS[1], "marker": "s", "mfc": "none", "ls": "--"}
    looks = (hollow, {"color": COLORS[0], "marker": "o"})
    for counts, name, look in zip((before, after), names, looks, strict=True):
        x, y = points_of(counts.reliability(channel, bins=bins, edges=edges))
        text = f"{name}: ECE {ece_of(counts, channel, bins, edges):.4f}" if x.size else f"{name}: no voxel"
        ax.plot(x, y, ms=4, lw=1.4, label=text, zorder=3, gid=name, **look)
    frame(ax, title, "accuracy" if channel == 0 else "frequency of the class")
    curve = after.reliability(channel, bins=bins, edges=edges)
    count_strip(ax, curve, "confidence" if channel == 0 else "predicted probability")
    return ax
