"""Contrast-enhanced CT of the upper abdomen with the 13 organs of FLARE 2022."""

from __future__ import annotations

import numpy as np

from medcalib.data.phantom.geometry import (
    Float,
    Geometry,
    Grid,
    carve,
    curve,
    ellipsoid,
    jitter,
    log_normal_width,
    soft,
    tube,
)

CLASS_NAMES = (
    "background",
    "liver",
    "right kidney",
    "spleen",
    "pancreas",
    "aorta",
    "inferior vena cava",
    "right adrenal gland",
    "left adrenal gland",
    "gallbladder",
    "esophagus",
    "stomach",
    "duodenum",
    "left kidney",
)
CHANNEL_NAMES = ("CT",)
SIGNS = (1, 1, 1)
HU = (112.0, 175, 128, 95, 190, 150, 82, 80, 10, 48, 30, 60, 178)
BODY_MM = (128.0, 102.0)

# Where two organs overlap the earlier one keeps the space; thin organs first, or they would vanish.
PRECEDENCE = (7, 8, 5, 6, 10, 9, 12, 4, 2, 13, 3, 11, 1)
# Organs that the usual blur would wipe out have sharper outlines: factor on the boundary width.
SHARPER = {4: 0.65, 5: 0.65, 6: 0.65, 7: 0.3, 8: 0.3, 9: 0.65, 10: 0.55, 12: 0.65}

# Center and semi-axes in mm, world axes Right, Anterior, Superior.
ELLIPSOIDS = {
    2: ((54.0, -56.0, -16.0), (21.0, 19.0, 40.0)),
    3: ((-84.0, -22.0, 28.0), (24.0, 36.0, 32.0)),
    9: ((50.0, 48.0, -20.0), (12.0, 18.0, 14.0)),
    13: ((-54.0, -56.0, -10.0), (21.0, 19.0, 40.0)),
}
# Corners of the center line and radii in mm.
TUBES: dict[int, tuple[tuple[tuple[float, float, float], ...], tuple[float, ...]]] = {
    4: (((34, 6, -26), (8, 14, -10), (-26, 2, 4), (-62, -22, 20)), (13, 10, 9, 8)),
    5: (((-10, -36, 110), (-8, -36, 0), (-6, -34, -110)), (11, 10, 9)),
    6: (((20, -18, 110), (18, -28, 0), (16, -30, -110)), (12, 12, 11)),
    7: (((27, -40, 30), (37, -48, 44)), (5.0, 4.2)),
    8: (((-30, -36, 32), (-40, -44, 46)), (5.0, 4.2)),
    10: (((-8, -12, 110), (-14, -8, 52), (-24, 2, 42)), (9, 9, 9)),
    11: (((-52, 6, 50), (-62, 26, 22), (-44, 44, -12), (-4, 46, -18)), (27, 25, 19, 13)),
    12: (((12, 44, -16), (58, 24, -18), (54, -4, -46), (12, -8, -52)), (12, 11, 11, 10)),
}


def draw_grid(rng: np.random.Generator) -> Grid:
    """About 96 x 80 x 28 voxels of 3 x 3 x 5 mm."""
    sizes = np.array([96, 80, 28]) + 2 * rng.integers(-1, 2, size=3)
    return Grid((int(sizes[0]), int(sizes[1]), int(sizes[2])), (3.0, 3.0, 5.0), SIGNS)


def _solid(code: int, points: Float, rng: np.random.Generator) -> Float:
    """Signed distance in mm to one organ, its position and size drawn, (*S)."""
    shift = rng.normal(0.0, 1.5, size=3)
    size = rng.uniform(0.93, 1.07)
    if code == 1:
        right = ellipsoid(points, np.add(shift, (58.0, 18.0, 18.0)), size * jitter(rng, [62.0, 66.0, 50.0], 0.06))
        left = ellipsoid(points, np.add(shift, (4.0, 52.0, 30.0)), size * jitter(rng, [52.0, 27.0, 27.0], 0.06))
        return np.maximum(right, left)
    if code in ELLIPSOIDS:
        center, axes = ELLIPSOIDS[code]
        return ellipsoid(points, shift + center, size * jitter(rng, axes, 0.06))
    corners, radii = TUBES[code]
    path, fine_radii = curve(np.asarray(corners) + shift, size * np.asarray(radii))
    return tube(points, path, fine_radii)


def _distances(solids: dict[int, Float]) -> Float:
    """Exclusive distances (14, *S) in class order from the solids by code."""
    carved = carve(np.stack([solids[code] for code in PRECEDENCE]))
    order = np.argsort(PRECEDENCE)
    return np.concatenate([carved[:1], carved[1:][order]])


def _tissue(grid: Grid, rng: np.random.Generator, points: Float, body: Float) -> Float:
    """Air, skin fat, muscle, visceral fat with bowel, and a vertebra, in HU, (1, *S)."""
    bowel = soft(14.0 * (grid.field(rng, 9.0) - 0.55), 2.0)
    inner = -95.0 + 135.0 * bowel
    muscle = soft(22.0 + 3.0 * grid.field(rng, 20.0) - body, 1.5)
    fat = soft(11.0 + 2.0 * grid.field(rng, 20.0) - body, 1.5)
    spine = np.maximum(
        ellipsoid(points[:2], (0.0, -62.0), (20.0, 16.0)), ellipsoid(points[:2], (0.0, -84.0), (6.0, 14.0))
    )
    layers = [(muscle, 55.0), (soft(spine, 1.2), 260.0), (fat, -100.0), (soft(-body, 0.8), -1000.0)]
    for share, value in layers:
        inner = (1 - share) * inner + share * value
    return inner[None]


def build(grid: Grid, rng: np.random.Generator, phase: str) -> Geometry:
    """Geometry of one case (there is one phase): solids carved by `PRECEDENCE`, all inside the body wall."""
    del phase
    width = log_normal_width(grid, rng, median_mm=2.5, spread=0.5, length_mm=22.0)
    points = grid.deformed(rng, (4.0, 2.0), (28.0, 12.0)) / rng.uniform(0.95, 1.05)
    body = ellipsoid(points[:2], (0.0, 0.0), BODY_MM)
    solids = {code: np.minimum(_solid(code, points, rng), body - 14.0) for code in range(1, len(CLASS_NAMES))}
    for code, factor in SHARPER.items():
        width = width * (1 - (1 - factor) * soft(solids[code] + 8.0, 2.0))
    contrast = (np.asarray(HU) + rng.normal(0.0, 6.0, size=len(HU)))[:, None]
    support = np.ones(grid.shape, dtype=bool)
    return Geometry(_distances(solids), width, _tissue(grid, rng, points, body), contrast, support)
