"""Short-axis cine MR of a heart: LV cavity inside a myocardial ring, RV crescent beside it."""

from __future__ import annotations

import numpy as np

from medcalib.data.phantom.geometry import Float, Geometry, Grid, jitter, log_normal_width, soft

CLASS_NAMES = ("background", "RV", "MYO", "LV")
CHANNEL_NAMES = ("MRI",)
SIGNS = (-1, -1, 1)


def draw_grid(rng: np.random.Generator) -> Grid:
    """In-plane about 72 x 72 voxels of 1.4-1.65 mm; 8 to 10 slices, 8 to 10 mm apart."""
    columns, rows = (int(n) for n in 2 * rng.integers(35, 39, size=2))
    in_plane = float(np.round(rng.uniform(1.4, 1.65), 3))
    return Grid(
        (columns, rows, int(rng.integers(8, 11))),
        (in_plane, in_plane, float(rng.choice([8.0, 9.0, 10.0]))),
        SIGNS,
    )


def _pose(grid: Grid, rng: np.random.Generator) -> tuple[Float, Float, Float]:
    """Coordinates in mm: from the LV axis toward the septum, across it, and below the base; each (*S)."""
    points = grid.deformed(rng, (2.2, 0.9), (16.0, 7.0))
    center = np.array([-13.0, -5.0]) + rng.normal(0.0, 2.5, size=2)
    angle = np.deg2rad(rng.normal(22.0, 14.0))
    x, y = points[0] - center[0], points[1] - center[1]
    toward = np.cos(angle) * x + np.sin(angle) * y
    across = np.cos(angle) * y - np.sin(angle) * x
    height, step = grid.extent_mm[2], grid.spacing_mm[2]
    # The base lies midway between two slices: a slice is cut through or missed, as in a real stack.
    base = height / 2 - step * int(rng.integers(0, 2))
    return toward, across, base - points[2]


def _taper(depth: Float, length_mm: float) -> Float:
    """Relative radius of a half ellipsoid at a depth below the base, at least 0.05."""
    inside = np.clip(1 - np.clip(depth / length_mm, 0.0, 1.0) ** 2, 0.0, 1.0)
    return np.maximum(np.sqrt(inside), 0.05)


def _solids(grid: Grid, rng: np.random.Generator, phase: str) -> tuple[Float, Float, Float, Float]:
    """Signed distances in mm of RV, epicardial and endocardial solid, and depth below the base; each (*S).

    Distances are taken in plane, as contours are drawn slice by slice; along the axis, to the apex.
    """
    toward, across, depth = _pose(grid, rng)
    cavity, wall = jitter(rng, [21.5, 8.0], 0.12)
    length = float(depth.max() - grid.spacing_mm[2] * rng.uniform(0.0, 0.9))
    rv_axes = jitter(rng, [21.0, 27.0], 0.1)
    if phase == "ES":
        cavity, wall, length, rv_axes = 0.66 * cavity, 1.4 * wall, 0.95 * length, 0.85 * rv_axes
    outer, apex_mm = cavity + wall, 9.0
    radius = np.hypot(toward, rng.uniform(0.92, 1.08) * across)
    epicardium = np.minimum(outer * _taper(depth, length) - radius, length - depth)
    endocardium = np.minimum(cavity * _taper(depth, length - apex_mm) - radius, length - apex_mm - depth)
    scale = _taper(depth, 0.85 * length)
    shifted = (toward - scale * (outer + 1.0)) / scale
    first = np.hypot(shifted / rv_axes[0], across / scale / rv_axes[1]) + 1e-6
    second = np.hypot(shifted / rv_axes[0] ** 2, across / scale / rv_axes[1] ** 2) + 1e-6 / rv_axes[0]
    ventricle = np.minimum(scale * first * (1 - first) / second, 0.85 * length - depth)
    return ventricle, epicardium, endocardium, depth


def _tissue(grid: Grid, rng: np.random.Generator, heart: Float) -> Float:
    """Liver and fat of medium to high, lung of low intensity around the heart, (1, *S)."""
    x, y, _ = grid.points()
    base = 75.0 + 28.0 * grid.field(rng, 9.0)
    lung = soft(-heart - 7.0 + 4.0 * grid.field(rng, 10.0), 1.5) * soft(-x - 0.3 * y + 4.0, 5.0)
    wall = soft(y - 0.36 * grid.extent_mm[1] + 4.0 * grid.field(rng, 14.0), 1.5)
    tissue = (1 - lung) * np.clip(base, 25.0, 150.0) + 18.0 * lung
    return ((1 - wall) * tissue + 165.0 * wall)[None]


def build(grid: Grid, rng: np.random.Generator, phase: str) -> Geometry:
    """Geometry of one frame; both phases of a patient share pose, deformation and width field.

    `d_LV = s_endo`, `d_MYO = min(s_epi, -s_endo)`, `d_RV = min(s_rv, -s_epi)`, each cut at the base plane.
    """
    width = log_normal_width(grid, rng, median_mm=1.5, spread=0.55, length_mm=14.0)
    ventricle, epicardium, endocardium, depth = _solids(grid, rng, phase)
    union = np.minimum(np.maximum(ventricle, epicardium), depth)
    distances = np.stack(
        [
            -union,
            np.minimum(np.minimum(ventricle, -epicardium), depth),
            np.minimum(np.minimum(epicardium, -endocardium), depth),
            np.minimum(endocardium, depth),
        ]
    )
    contrast = jitter(rng, [205.0, 95.0, 215.0], 0.08)[:, None]
    support = np.ones(grid.shape, dtype=bool)
    return Geometry(distances, width, _tissue(grid, rng, union), contrast, support)
