"""Gap against distance to a surface."""

from __future__ import annotations

from collections.abc import Sequence
from functools import reduce
from operator import add
from typing import TYPE_CHECKING

import numpy as np

from medcalib.report.distances import DistanceSums
from medcalib.report.plots.reliability import draw_band, rate_band
from medcalib.report.plots.style import BAR, COLORS, DASHES, INK, MARKERS, finish, log_counts, new_axes, plain

if TYPE_CHECKING:
    from matplotlib.axes import Axes


def plot_gap_by_distance(
    cases: Sequence[tuple[str, DistanceSums]], ax: Axes | None = None, *, name: str = "", number: int = 0
) -> Axes:
    """Mean confidence minus accuracy against the signed distance to a surface in mm, over a strip of voxel counts.

    `cases` are (patient_id, sums of `medcalib.report.distances.sums_by_distance`). Read from it: above the line is
    overconfident; errors of calibration close to a surface stand near 0 mm, those inside the structure at negative
    distances. The band is a 95 % interval over patients (3 or more). A second call with the same axes adds a curve,
    `number` picks its look; the strip is that of the first.
    """
    fresh = ax is None or not ax.lines
    ax = new_axes(3.9, 3.3, (0.17, 0.33, 0.8, 0.58)) if ax is None else ax
    color = COLORS[number % len(COLORS)]
    patients = sorted({patient for patient, _ in cases})
    if cases:
        total = reduce(add, (sums for _, sums in cases))
        filled = total.voxels > 0
        x, y = (part[filled] / total.voxels[filled] for part in (total.distance_mm, total.gap))
        gaps, voxels = (np.zeros((len(patients), filled.size)) for _ in range(2))
        for patient, sums in cases:
            gaps[patients.index(patient)] += sums.gap
            voxels[patients.index(patient)] += sums.voxels
        low, high = rate_band(gaps, voxels)
        draw_band(ax, x, low[filled], high[filled], color)
        look = {"color": color, "marker": MARKERS[number % len(MARKERS)], "ls": DASHES[number % len(DASHES)]}
        ax.plot(x, y, ms=3.8, lw=1.4, label=plain(name), zorder=3, gid=f"gap {number}", **look)
        if fresh:
            _strip(ax, total)
    if fresh:
        ax.axhline(0, color=INK, lw=0.8, zorder=1, gid="zero")
        ax.axvline(0, color=INK, lw=0.8, ls=(0, (1.5, 1.5)), zorder=1, gid="surface")
        ax.set_ylabel("mean confidence minus accuracy")
        ax.set_title(f"n = {len(cases)} cases, {len(patients)} patients", fontsize=9.5, loc="left")
    finish(ax, legend=False)
    if name:
        ax.legend(fontsize=8, loc="upper left", bbox_to_anchor=(0, -0.62))  # below the strip: curves run everywhere
    return ax


def _strip(ax: Axes, total: DistanceSums) -> None:
    strip = ax.inset_axes((0, -0.36, 1, 0.26), sharex=ax)
    edges = np.array(total.edges_mm)
    strip.bar(edges[:-1], total.voxels, width=np.diff(edges) * 0.92, align="edge", color=BAR, gid="voxels")
    log_counts(strip, float(total.voxels.max()))
    strip.set(ylabel="voxels", xlabel="signed distance to the surface, mm (negative: inside)")
    strip.tick_params(labelsize=8)
    ax.tick_params(labelbottom=False)
