"""T1 MR crop around a hippocampus: a bent, tapering body in an anterior and a posterior part."""

from __future__ import annotations

import numpy as np

from medcalib.data.phantom.geometry import (
    Float,
    Geometry,
    Grid,
    curve,
    jitter,
    log_normal_width,
    soft,
    tube,
)

CLASS_NAMES = ("background", "Anterior", "Posterior")
CHANNEL_NAMES = ("MRI",)
SIGNS = (1, 1, 1)


def draw_grid(rng: np.random.Generator) -> Grid:
    """1 mm isotropic, about 36 x 50 x 34 voxels."""
    sizes = np.array([36, 50, 34]) + rng.integers(-2, 3, size=3)
    return Grid((int(sizes[0]), int(sizes[1]), int(sizes[2])), (1.0, 1.0, 1.0), SIGNS)


def _solids(grid: Grid, rng: np.random.Generator) -> tuple[Float, Float]:
    """Signed distance in mm of the whole body, and height in mm above the plane of the split; each (*S)."""
    points = grid.deformed(rng, (1.1, 0.7), (7.0, 3.5))
    side = rng.choice([-1.0, 1.0])
    bend, lift, size = rng.uniform(3.0, 6.0), rng.uniform(3.0, 6.0), rng.uniform(0.92, 1.08)
    path = size * np.array(
        [
            [side * 1.0, 14.5, -3.0],
            [-side * 0.4 * bend, 4.0, -3.5],
            [-side * 0.2 * bend, -6.0, -0.5],
            [side * bend, -15.0, lift],
        ]
    )
    radii = size * jitter(rng, [6.0, 6.2, 4.8, 3.6], 0.1)
    body = tube(points, *curve(path, radii))
    normal = np.array([0.15 * side, 1.0, rng.uniform(-0.35, 0.0)])
    height = np.einsum("a,a...->...", normal / np.linalg.norm(normal), points) - rng.uniform(0.5, 4.5)
    return body, height


def _tissue(grid: Grid, rng: np.random.Generator, body: Float) -> Float:
    """White matter with gray folds and a dark horn of fluid near the body, (1, *S)."""
    white = 165.0 + 8.0 * grid.field(rng, 6.0)
    gray = soft(1.1 - np.abs(3.2 * grid.field(rng, 4.5)), 0.25) * soft(-body - 2.5, 0.8)
    fluid = soft(2.4 * grid.field(rng, 5.0) - 3.6, 0.3) * soft(-body - 0.8, 0.5)
    return ((1 - fluid) * ((1 - gray) * white + 115.0 * gray) + 40.0 * fluid)[None]


def build(grid: Grid, rng: np.random.Generator, phase: str) -> Geometry:
    """Geometry of one case (there is one phase).

    With `s` the body and `h` the height over the split plane: `d_Ant = min(s, h)`, `d_Post = min(s, -h)`,
    `d_0 = -s`.
    """
    del phase
    width = log_normal_width(grid, rng, median_mm=0.65, spread=0.5, length_mm=7.0)
    body, height = _solids(grid, rng)
    distances = np.stack([-body, np.minimum(body, height), np.minimum(body, -height)])
    contrast = jitter(rng, [112.0, 124.0], 0.04)[:, None]
    support = np.ones(grid.shape, dtype=bool)
    return Geometry(distances, width, _tissue(grid, rng, body), contrast, support)
