"""From a geometry to posterior, labels and image; pure functions, nothing on disk.

The formulas, and what is exact about them, stand in the docstring of `medcalib.data.phantom`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import special

from medcalib.data.phantom import abdomen, heart, hippocampus, tumor
from medcalib.data.phantom.fields import sample_labels
from medcalib.data.phantom.geometry import Float, Geometry, Grid

PHASES = ("ED", "ES")
_GEOMETRY, _IMAGE, _LABELS = 0, 1, 2  # independent random streams of one case
MIN_SHAPE = (16, 16, 4)


@dataclass(frozen=True)
class Anatomy:
    """How one anatomy is drawn.

    Attributes:
        class_names: background first; the position is the class index.
        channel_names: image channels in order.
        draw_grid, build: `rng -> Grid` and `(grid, rng, phase) -> Geometry`.
        label_length_mm: kernel width of the label noise; larger is smoother.
        bias: spread of the log of the smooth bias field; 0 for none.
        noise: standard deviation of the noise, in intensity units.
        rician: noise on a magnitude image (MR) instead of plain Gaussian noise (CT).
        integer: whether intensities are whole numbers, stored as int16 (else float32).
    """

    class_names: tuple[str, ...]
    channel_names: tuple[str, ...]
    draw_grid: Callable[[np.random.Generator], Grid]
    build: Callable[[Grid, np.random.Generator, str], Geometry]
    label_length_mm: float
    bias: float
    noise: float
    rician: bool
    integer: bool


ANATOMIES: dict[str, Anatomy] = {
    "heart": Anatomy(
        heart.CLASS_NAMES,
        heart.CHANNEL_NAMES,
        heart.draw_grid,
        heart.build,
        label_length_mm=5.0,
        bias=0.10,
        noise=7.0,
        rician=True,
        integer=True,
    ),
    "tumor": Anatomy(
        tumor.CLASS_NAMES,
        tumor.CHANNEL_NAMES,
        tumor.draw_grid,
        tumor.build,
        label_length_mm=3.0,
        bias=0.06,
        noise=18.0,
        rician=True,
        integer=True,
    ),
    "abdomen": Anatomy(
        abdomen.CLASS_NAMES,
        abdomen.CHANNEL_NAMES,
        abdomen.draw_grid,
        abdomen.build,
        label_length_mm=7.0,
        bias=0.0,
        noise=14.0,
        rician=False,
        integer=True,
    ),
    "hippocampus": Anatomy(
        hippocampus.CLASS_NAMES,
        hippocampus.CHANNEL_NAMES,
        hippocampus.draw_grid,
        hippocampus.build,
        label_length_mm=2.2,
        bias=0.05,
        noise=5.0,
        rician=True,
        integer=False,
    ),
}


@dataclass(frozen=True)
class PhantomCase:
    """One case in memory.

    Attributes:
        images: (M, *S) float32.
        labels: (*S) uint8 class indices, 0 is background.
        posterior: (C, *S) float32, the true probability of each class at each voxel given the geometry.
        affine: (4, 4) voxel index to world mm (RAS).
        spacing_mm: voxel size an axis.
        class_names: C names in the order of the class indices.
    """

    images: NDArray[np.float32]
    labels: NDArray[np.uint8]
    posterior: NDArray[np.float32]
    affine: Float
    spacing_mm: tuple[float, float, float]
    class_names: tuple[str, ...]


def _rng(seed: int, index: int, *stream: int) -> np.random.Generator:
    """Generator of one stream of case `index`: depends on no other case."""
    return np.random.default_rng(np.random.SeedSequence([seed, index], spawn_key=stream))


def lookup(anatomy: str) -> Anatomy:
    """The anatomy of that name. Raises ValueError with the known names."""
    if anatomy not in ANATOMIES:
        raise ValueError(f"unknown anatomy {anatomy!r}; choose one of {', '.join(ANATOMIES)}")
    return ANATOMIES[anatomy]


def make_geometry(
    anatomy: str, seed: int, index: int, shape: Sequence[int] | None = None, *, phase: str = "ED"
) -> tuple[Grid, Geometry]:
    """Grid and geometry of case `index`, without drawing labels or an image.

    Args:
        anatomy: a key of `ANATOMIES`.
        seed: of the data set, not negative.
        index: of the case (of the patient, for the heart), not negative.
        shape: other grid size; the spacing follows, the field of view in mm stays.
        phase: "ED" or "ES"; only the heart looks at it.

    Raises:
        ValueError: for an unknown anatomy or phase, or a grid below 16 x 16 x 4.
    """
    if phase not in PHASES:
        raise ValueError(f"phase must be one of {PHASES}, got {phase!r}")
    spec = lookup(anatomy)
    rng = _rng(seed, index, _GEOMETRY)
    grid = spec.draw_grid(rng)
    if shape is not None:
        grid = _resized(grid, shape)
    return grid, spec.build(grid, rng, phase)


def _resized(grid: Grid, shape: Sequence[int]) -> Grid:
    """The same field of view on another number of voxels."""
    if len(shape) != 3 or any(n < least for n, least in zip(shape, MIN_SHAPE, strict=True)):
        raise ValueError(f"shape must have three entries of at least {MIN_SHAPE}, got {tuple(shape)}")
    size = (int(shape[0]), int(shape[1]), int(shape[2]))
    step = grid.extent_mm / np.array(size)
    return Grid(size, (float(step[0]), float(step[1]), float(step[2])), grid.signs)


def logits_of(geometry: Geometry) -> Float:
    """`d_k(v) / w(v)`, (C, *S) float64; the posterior is its softmax."""
    logits: Float = geometry.distances_mm / geometry.width_mm
    return logits


def posterior_of(geometry: Geometry) -> Float:
    """`pi_k(v) = softmax_k(d_k(v) / w(v))`, (C, *S) float64."""
    posterior: Float = special.softmax(logits_of(geometry), axis=0)
    return posterior


def render(
    spec: Anatomy, grid: Grid, geometry: Geometry, posterior: Float, rng: np.random.Generator
) -> NDArray[np.float32]:
    """Noisy image of a geometry, (M, *S) float32; never sees a label.

    `I_m(v) = b(v) sum_k pi_k(v) mu_km(v)` with a smooth bias field `b`, then noise: `I + n` or, for magnitude
    images, `sqrt((I + n)^2 + n'^2)`. So the edge of a structure is as wide as its boundary is ambiguous.
    """
    images = posterior[0] * geometry.tissue
    images += np.einsum("km,k...->m...", geometry.contrast, posterior[1:])
    if spec.bias > 0:
        images *= np.exp(spec.bias * grid.field(rng, 0.35 * float(grid.extent_mm[:2].min())))
    images += spec.noise * rng.standard_normal(images.shape)
    if spec.rician:
        images = np.hypot(images, spec.noise * rng.standard_normal(images.shape))
    images = np.where(geometry.support, images, 0.0)
    if spec.integer:
        images = np.clip(np.rint(images), -1024, 32767)
    return images.astype(np.float32)


def make_case(
    anatomy: str,
    seed: int,
    index: int,
    shape: Sequence[int] | None = None,
    *,
    phase: str = "ED",
    rater: int = 0,
) -> PhantomCase:
    """Draw one case; it depends on the arguments only, not on how many cases are made.

    Args:
        anatomy, seed, index, shape, phase: see `make_geometry`.
        rater: which of the independent label draws; another rater has the same image and posterior.

    Raises:
        ValueError: see `make_geometry`.
    """
    spec = lookup(anatomy)
    grid, geometry = make_geometry(anatomy, seed, index, shape, phase=phase)
    frame = PHASES.index(phase)
    posterior = posterior_of(geometry)
    label_rng, image_rng = _rng(seed, index, _LABELS, frame, rater), _rng(seed, index, _IMAGE, frame)
    return PhantomCase(
        images=render(spec, grid, geometry, posterior, image_rng),
        labels=sample_labels(logits_of(geometry), label_rng, grid.spacing_mm, spec.label_length_mm),
        posterior=posterior.astype(np.float32),
        affine=grid.affine,
        spacing_mm=grid.spacing_mm,
        class_names=spec.class_names,
    )
