"""Skull-stripped brain with a glioma-like lesion: necrotic core in an enhancing rim in edema."""

from __future__ import annotations

import numpy as np

from medcalib.data.phantom.geometry import Float, Geometry, Grid, ellipsoid, jitter, log_normal_width, soft

CLASS_NAMES = ("background", "NCR", "ED", "ET")
CHANNEL_NAMES = ("t1", "t1ce", "t2", "flair")
SIGNS = (-1, -1, 1)
P_WITHOUT_RIM = 1 / 8
ABSENT_MM = -40.0  # distance of a class that a case does not have: far outside everywhere

# Rows: white matter, gray matter, ventricles; then NCR, ED, ET. Columns: t1, t1ce, t2, flair.
TISSUES = np.array([[440.0, 450, 300, 310], [340, 350, 400, 390], [130, 135, 800, 110]])
LESION = np.array([[190.0, 200, 680, 420], [300, 305, 620, 690], [330, 820, 500, 560]])


def draw_grid(rng: np.random.Generator) -> Grid:
    """1 mm isotropic, about 64 x 72 x 56 voxels."""
    sizes = np.array([64, 72, 56]) + 2 * rng.integers(-1, 2, size=3)
    return Grid((int(sizes[0]), int(sizes[1]), int(sizes[2])), (1.0, 1.0, 1.0), SIGNS)


def _lesion(grid: Grid, rng: np.random.Generator, brain: Float) -> tuple[Float, Float, Float]:
    """Nested signed distances in mm of the whole lesion, the tumor core and the necrosis; each (*S)."""
    points = grid.deformed(rng, (2.0, 1.2), (9.0, 4.5))
    direction = rng.standard_normal(3)
    center = rng.uniform(0.15, 0.4) * 0.45 * grid.extent_mm * direction / np.linalg.norm(direction)
    axes = jitter(rng, [17.0, 18.0, 15.5], 0.12)
    inner = center + rng.normal(0.0, 1.0, size=3)
    whole = ellipsoid(points, center, axes) + 1.0 * grid.field(rng, 4.0)
    core = ellipsoid(points, inner, rng.uniform(0.68, 0.76) * axes) + 0.8 * grid.field(rng, 4.0)
    necrosis = ellipsoid(points, inner, rng.uniform(0.38, 0.46) * axes) + 0.6 * grid.field(rng, 4.0)
    whole = np.minimum(whole, brain - 2.5)
    core = np.minimum(core, whole - 2.0)
    return whole, core, np.minimum(necrosis, core - 3.0)


def _tissue(grid: Grid, rng: np.random.Generator, brain: Float, points: Float) -> Float:
    """White matter, a folded cortex and two ventricles in every channel, (4, *S)."""
    folds = np.abs(grid.field(rng, 3.0))
    cortex = soft(3.0 + 6.0 * np.exp(-4.0 * folds) - brain, 0.5)
    half = grid.extent_mm / 2
    horns = [ellipsoid(points, half * [side, 0.05, 0.1], half * [0.09, 0.33, 0.2]) for side in (-0.16, 0.16)]
    fluid = soft(np.maximum(*horns), 0.4)
    shares = np.stack([(1 - cortex) * (1 - fluid), cortex * (1 - fluid), fluid])
    tissue: Float = np.einsum("km,k...->m...", TISSUES, shares)
    return tissue


def build(grid: Grid, rng: np.random.Generator, phase: str) -> Geometry:
    """Geometry of one case (there is one phase).

    `d_NCR = s_necrosis`, `d_ET = min(s_core, -s_necrosis)`, `d_ED = min(s_whole, -s_core)`, `d_0 = -s_whole`.
    In a case without a rim the core is all necrosis.
    """
    del phase
    width = log_normal_width(grid, rng, median_mm=0.68, spread=0.5, length_mm=9.0)
    points = grid.deformed(rng, (1.2,), (10.0,))
    brain = ellipsoid(points, (0.0, 0.0, 0.0), 0.46 * grid.extent_mm)
    has_rim = rng.random() >= P_WITHOUT_RIM
    whole, core, necrosis = _lesion(grid, rng, brain)
    if not has_rim:
        necrosis = core
    rim = np.minimum(core, -necrosis) if has_rim else np.full(grid.shape, ABSENT_MM)
    distances = np.stack([-whole, necrosis, np.minimum(whole, -core), rim])
    contrast = LESION * rng.uniform(0.9, 1.1, size=LESION.shape)
    return Geometry(distances, width, _tissue(grid, rng, brain, points), contrast, brain > 0)
