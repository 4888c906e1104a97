"""A slice of a map over its image, with a colorbar and the contour of the labels."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from medcalib.report.plots.style import new_axes, plain

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Plane = NDArray[Any]
OUTLINE = "#fefefe"  # not the white of the paper, which is dark on dark pages
# map: (colors, lowest, highest, label of the bar)
KINDS: dict[str, tuple[str, float, float, str]] = {
    "confidence": ("cividis", 0.0, 1.0, "confidence"),
    "probability": ("cividis", 0.0, 1.0, "probability"),
    "entropy": ("cividis", 0.0, 1.0, "entropy / ln C"),
    "error": ("Oranges", 0.0, 1.0, "error"),
    "gap": ("RdBu_r", -0.5, 0.5, "mean confidence minus accuracy"),
    "true_gap": ("RdBu_r", -0.5, 0.5, "confidence minus known posterior"),
}


def plot_overlay(
    plane: Plane,
    ax: Axes | None = None,
    *,
    kind: str = "gap",
    image: Plane | None = None,
    label: Plane | None = None,
    spacing_mm: tuple[float, float] = (1.0, 1.0),
    alpha: float = 0.65,
    title: str = "",
) -> Axes:
    """One slice of a map (rows, columns) over `image`, with a colorbar, and the outline of each class of `label`.

    `plane`, `image` and `label` have one shape, row 0 at the top; turn stored axes first
    (`medcalib.report.slices.display` does it for RAS axes, radiological view). `spacing_mm` (row, column) keeps
    proportions. `kind` gives colors and limits: confidence, probability, entropy, error, gap or true_gap. Read from it:
    of a gap, red is overconfident, blue underconfident, white neither; NaN is left clear. Label 255 (ignored) has no
    outline. Raises ValueError for an unknown kind and for other shapes. `alpha` is the opacity of the map, 0 to 1.
    """
    from matplotlib.cm import ScalarMappable

    _check(kind, plane, image=image, label=label)
    colors, low, high, text = KINDS[kind]
    values = np.ma.masked_invalid(np.asarray(plane, np.float64))
    ax = new_axes(4.2, 3.6) if ax is None else ax
    aspect = spacing_mm[0] / spacing_mm[1]
    if image is not None:
        ax.imshow(image, cmap="gray", aspect=aspect, interpolation="nearest")
        if kind == "error":
            values = np.ma.masked_equal(values, 0)
    share = 1.0 if image is None else alpha
    shown = ax.imshow(values, colors, aspect=aspect, interpolation="nearest", alpha=share, vmin=low, vmax=high)
    if label is not None:
        _outline(ax, label)
    ax.set_axis_off()
    ax.set_title(plain(title), fontsize=9.5, loc="left")
    opaque = ScalarMappable(shown.norm, shown.cmap)  # the bar shows the map's own colors, not their mix with the paper
    ax.figure.colorbar(opaque, cax=ax.inset_axes((1.03, 0, 0.05, 1)), label=text)
    return ax


def _check(kind: str, plane: Plane, **others: Plane | None) -> None:
    if kind not in KINDS:
        raise ValueError(f"kind must be one of {', '.join(KINDS)}, got {kind!r}")
    for name, other in others.items():
        if other is not None and other.shape != plane.shape:
            raise ValueError(f"{name} has shape {other.shape}, the map {plane.shape}; cut both alike")


def _outline(ax: Axes, label: Plane) -> None:
    """Each class but background and ignored voxels, readable on light and dark colors."""
    for k in np.unique(label[(label > 0) & (label != 255)]):
        ax.contour(label == k, levels=[0.5], colors="black", linewidths=2.0)
        ax.contour(label == k, levels=[0.5], colors=OUTLINE, linewidths=0.9)
