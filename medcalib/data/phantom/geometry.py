"""Grids in millimeters, signed distances to simple solids, and what an anatomy hands to the model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import special

from medcalib.data.phantom.fields import gaussian_field

Float = NDArray[np.float64]
Vector = Sequence[float] | Float
Path = Sequence[Sequence[float]] | Float


@dataclass(frozen=True)
class Grid:
    """A voxel grid whose center is the origin of the world (RAS, mm).

    Attributes:
        shape: voxels an axis.
        spacing_mm: voxel size an axis.
        signs: +1 or -1 an axis: whether the index grows toward Right, Anterior, Superior or away from it.
    """

    shape: tuple[int, int, int]
    spacing_mm: tuple[float, float, float]
    signs: tuple[int, int, int]

    @property
    def affine(self) -> Float:
        """Voxel index to world position in mm, (4, 4)."""
        steps = np.array(self.signs) * np.array(self.spacing_mm)
        affine = np.diag([*steps, 1.0])
        affine[:3, 3] = -steps * (np.array(self.shape) - 1) / 2
        return affine

    @property
    def extent_mm(self) -> Float:
        """Physical size an axis, voxels times spacing, (3,)."""
        extent: Float = np.array(self.shape) * np.array(self.spacing_mm)
        return extent

    def points(self) -> Float:
        """World position of every voxel center in mm, (3, *S)."""
        axes = [self.affine[a, a] * np.arange(n) + self.affine[a, 3] for a, n in enumerate(self.shape)]
        return np.stack(np.meshgrid(*axes, indexing="ij"))

    def field(self, rng: np.random.Generator, length_mm: float) -> Float:
        """A `gaussian_field` on this grid, (*S).

        The noise comes from a child of `rng`: numbers drawn from `rng` later do not depend on `shape`.
        """
        return gaussian_field(rng.spawn(1)[0], self.shape, self.spacing_mm, length_mm)

    def deformed(self, rng: np.random.Generator, amplitudes_mm: Sequence[float], lengths_mm: Sequence[float]) -> Float:
        """Voxel centers moved by a sum of smooth random displacements, (3, *S).

        A displacement of amplitude `a` and kernel width `l` has gradients of about `a / (sqrt(2) l)`; while
        that is well below 1, distances measured at the moved points stay distances to first order.
        """
        points = self.points()
        for amplitude, length in zip(amplitudes_mm, lengths_mm, strict=True):
            points += amplitude * np.stack([self.field(rng, length) for _ in range(3)])
        return points


@dataclass(frozen=True)
class Geometry:
    """All that fixes the posterior and the noiseless image of one case.

    Attributes:
        distances_mm: (C, *S), positive inside the region of the class, background first.
        width_mm: (*S), positive; the local ambiguity of a boundary.
        tissue: (M, *S), intensity of what the background class shows.
        contrast: (C - 1, M), intensity of the foreground classes.
        support: (*S) bool; outside of it the scanner's image is exactly 0.
    """

    distances_mm: Float
    width_mm: Float
    tissue: Float
    contrast: Float
    support: NDArray[np.bool_]


def ellipsoid(points: Float, center: Vector, semi_axes_mm: Vector) -> Float:
    """Signed distance in mm to an axis-parallel ellipsoid, positive inside, first-order exact at its surface.

    `d = |q| (1 - |q|) / |q / r|` with `q = (p - c) / r`. points (D, *S) -> (*S).
    """
    radii = np.asarray(semi_axes_mm, dtype=np.float64)
    tiny = 1e-12  # the center: |q| / |q / r| has no limit there; this picks the smallest semi-axis
    first = np.full(points.shape[1:], tiny)
    second = np.full(points.shape[1:], tiny / radii.min() ** 2)
    for coordinate, middle, radius in zip(points, center, radii, strict=True):
        scaled = ((coordinate - middle) / radius) ** 2
        first += scaled
        second += scaled / radius**2
    norm = np.sqrt(first)
    distance: Float = norm * (1 - norm) / np.sqrt(second)
    return distance


def tube(points: Float, path_mm: Path, radii_mm: Vector) -> Float:
    """Signed distance in mm to a tube of varying radius along a polyline, positive inside.

    points (3, *S), path (K, 3), radii (K,) -> (*S).
    """
    path, radii = np.asarray(path_mm, dtype=np.float64), np.asarray(radii_mm, dtype=np.float64)
    square = (points**2).sum(axis=0)
    best = np.full(points.shape[1:], -np.inf)
    for start, end, first, last in zip(path[:-1], path[1:], radii[:-1], radii[1:], strict=True):
        axis = end - start
        length2 = axis @ axis
        # |p - s - t a|^2 by its expansion: scalar volumes only, a tenth of the time of vector ones
        reach = _dot(axis, points) - axis @ start
        along = np.clip(reach / length2, 0.0, 1.0)
        away2 = square - 2 * _dot(start, points) + start @ start + along * (along * length2 - 2 * reach)
        np.maximum(best, first + along * (last - first) - np.sqrt(np.maximum(away2, 0.0)), out=best)
    return best


def _dot(vector: Float, points: Float) -> Float:
    """Scalar product with every point, (*S)."""
    product: Float = vector[0] * points[0] + vector[1] * points[1] + vector[2] * points[2]
    return product


def curve(path_mm: Path, radii_mm: Vector, pieces: int = 8) -> tuple[Float, Float]:
    """Round a coarse polyline off: quadratic or cubic through its corners, resampled to `pieces` segments."""
    knots = np.linspace(0.0, 1.0, len(path_mm))
    fine = np.linspace(0.0, 1.0, pieces + 1)
    degree = min(3, len(path_mm) - 1)
    coefficients = np.polyfit(knots, np.asarray(path_mm, dtype=np.float64), degree)
    powers = fine[:, None] ** np.arange(degree, -1, -1)
    return powers @ coefficients, np.interp(fine, knots, radii_mm)


def carve(solids: Float) -> Float:
    """Turn overlapping solids into exclusive regions plus background; earlier solids win.

    With `s_k` the signed distance of solid k: `d_k = min(s_k, -max_{j<k} s_j)` and `d_0 = -max_k s_k`. The
    background uses the union of the solids, so that it is far away at a border between two of them.
    solids (C - 1, *S) -> distances (C, *S), background first.
    """
    distances = np.empty((len(solids) + 1, *solids.shape[1:]))
    union = np.full(solids.shape[1:], -np.inf)
    for index, solid in enumerate(solids):
        distances[index + 1] = np.minimum(solid, -union)
        np.maximum(union, solid, out=union)
    distances[0] = -union
    return distances


def log_normal_width(grid: Grid, rng: np.random.Generator, median_mm: float, spread: float, length_mm: float) -> Float:
    """Boundary width `w(v) = median exp(spread f(v))` in mm, clipped to [0.3, 7] mm, (*S)."""
    return np.clip(median_mm * np.exp(spread * grid.field(rng, length_mm)), 0.3, 7.0)


def soft(distance_mm: Float, width_mm: float) -> Float:
    """Membership in [0, 1] of a solid that belongs to no class, for painting the background, (*S)."""
    membership: Float = special.expit(distance_mm / width_mm)
    return membership


def jitter(rng: np.random.Generator, values: Vector, fraction: float) -> Float:
    """`values` times independent factors, uniform in [1 - fraction, 1 + fraction]."""
    return np.asarray(values) * rng.uniform(1 - fraction, 1 + fraction, size=len(values))
