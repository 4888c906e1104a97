"""Figures of calibration, drawn into given axes: `plot_x(..., ax=None) -> Axes`. No pyplot, no global state.

ax = plot_reliability(counts, region="pred_foreground")
ax.figure.savefig("reliability.pdf", bbox_inches="tight")

What a name means everywhere in here: `ax` the axes to draw into; `counts` a `CalibrationCounts`, whose `channel` 0 is
the top label and 1 + k class k; `bins` equal bins of confidence with `edges` "right", (a, b], or "left", [a, b);
`region`, `name` and `title` are words of labels; `number` picks the color, marker and dash of a method; `scores` the
content of one `scores.json` or more by method; `spacing_mm` the edges of a voxel.

Without `ax` a figure of its own is made, which a notebook shows as `ax.figure`. Colors are Okabe and Ito's, told apart
by color-blind people, and methods differ in marker and dash as well, so that a gray print can be read.
"""

from medcalib.report.plots.before_after import plot_before_after
from medcalib.report.plots.cases import case_dice, case_ece, main_region, plot_case_ece_against_dice
from medcalib.report.plots.confidence_histogram import plot_confidence_histogram
from medcalib.report.plots.distance import plot_gap_by_distance
from medcalib.report.plots.gaps import Gap, plot_gaps
from medcalib.report.plots.methods import plot_method_comparison
from medcalib.report.plots.overlay import plot_overlay
from medcalib.report.plots.pareto import Spot, plot_pareto
from medcalib.report.plots.ranks import plot_mean_ranks
from medcalib.report.plots.reliability import ece_of, plot_reliability, reliability_band
from medcalib.report.plots.reliability_histogram import plot_reliability_histogram, reliability_histogram
from medcalib.report.plots.risk_coverage import plot_risk_coverage
from medcalib.report.plots.style import COLORS, MARKERS, STYLE, new_axes, svg
from medcalib.report.plots.sweep import Series, plot_sweep

__all__ = [
    "COLORS",
    "MARKERS",
    "STYLE",
    "Gap",
    "Series",
    "Spot",
    "case_dice",
    "case_ece",
    "ece_of",
    "main_region",
    "new_axes",
    "plot_before_after",
    "plot_case_ece_against_dice",
    "plot_confidence_histogram",
    "plot_gap_by_distance",
    "plot_gaps",
    "plot_mean_ranks",
    "plot_method_comparison",
    "plot_overlay",
    "plot_pareto",
    "plot_reliability",
    "plot_reliability_histogram",
    "plot_risk_coverage",
    "plot_sweep",
    "reliability_band",
    "reliability_histogram",
    "svg",
]
