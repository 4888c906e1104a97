"""Slices of one case for the page: small PNGs in display orientation and contours as SVG paths.

Orientation is radiological: the patient's left is on the right of the picture; anterior is up in axial
slices, superior in coronal and sagittal ones (in the latter anterior is on the left). Volumes are turned to
the closest RAS axes and sliced along the axis with the largest voxels; nothing is interpolated.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medcalib.data.geometry import Affine, on_same_grid, reoriented, voxel_sizes
from medcalib.data.load import read_any
from medcalib.errors import DataError
from medcalib.files import CASE_ID
from medcalib.report.pictures import IGNORED, Scales, contour_path, gray_png, map_png

__all__ = ["display"]

Plane = NDArray[Any]
MAPS = ("confidence", "error", "gap", "label", "prediction")
EXTRA_MAPS = ("entropy", "true_gap", "region")  # shown where they are
SHOWN = ("confidence", "entropy", "error", "gap", "true_gap", "region")
MAX_SLICES = 5
MAX_PIXELS = 320  # longest edge of a picture; larger planes are thinned
MARGIN_MM = 15.0
VIEWS = {0: "sagittal", 1: "coronal", 2: "axial"}
LETTERS = {0: "SPIA", 1: "SLIR", 2: "ALPR"}  # top, right, bottom, left


@dataclass(frozen=True)
class Slice:
    """One slice: its index in the file, pictures by map (and `image`) as data URIs, and contours in half pixels.

    `missed` counts the voxels that are foreground in the reference and background in the prediction.
    """

    index: int
    pictures: Mapping[str, str]
    reference: str
    predicted: str
    missed: int = 0


@dataclass(frozen=True)
class CaseSlices:
    """The slices of a case, each `width_mm` x `height_mm`; `half_pixel_mm` (x, y) is the unit of contours.

    Every `step`-th voxel is shown.
    """

    case_id: str
    view: str
    letters: str
    width_mm: float
    height_mm: float
    half_pixel_mm: tuple[float, float]
    slices: tuple[Slice, ...]
    step: int = 1


def missing_maps(folder: Path, case_id: str) -> list[str]:
    """File names of the maps that `folder` lacks of a case."""
    if not CASE_ID.match(case_id):  # could leave the folder
        return list(MAPS)
    return [name for name in (f"{case_id}_{kind}.nii.gz" for kind in MAPS) if not (folder / name).is_file()]


def case_slices(
    folder: Path,
    case_id: str,
    *,
    underlay: Path | None = None,
    scales: Scales | None = None,
    max_pixels: int = MAX_PIXELS,
) -> CaseSlices:
    """Up to 5 slices through the foreground of a case, from its maps in `folder`.

    `scales` are the ends of the colors, `max_pixels` the longest edge of a picture. Raises `DataError` when a map or
    the underlay is damaged or lies on another grid.
    """
    volumes, affine, turned = read_maps(folder, case_id, underlay)
    sizes = voxel_sizes(turned)
    axis = through_plane(sizes)
    found = (_known(volumes["label"]) > 0) | (volumes["prediction"] > 0)
    box = _box(found, axis, sizes)
    edges = [n for k, n in enumerate(sizes) if k != axis]
    step = _step(box, max_pixels)
    picked = pick_slices(found, axis)
    cut = [{name: _plane(volume, axis, at)[box] for name, volume in volumes.items()} for at in picked]
    limits = _window(np.stack([planes["underlay"] for planes in cut]))
    slices = []
    for at, planes in zip(picked, cut, strict=True):
        pictures = {name: display(plane, step, name) for name, plane in planes.items()}
        index = stored_index(affine, turned, axis, at)
        missed = int(((_known(planes["label"]) > 0) & (planes["prediction"] == 0)).sum())
        slices.append(replace(_slice(index, pictures, limits, scales or Scales()), missed=missed))
    rows, columns = display(cut[0]["label"], step).shape
    mm = (edges[0] * step, edges[1] * step)
    half = (mm[0] / 2, mm[1] / 2)
    size = columns * mm[0], rows * mm[1]
    return CaseSlices(case_id, VIEWS[axis], LETTERS[axis], *size, half, tuple(slices), step)


def read_maps(folder: Path, case_id: str, underlay: Path | None) -> tuple[dict[str, Plane], Affine, Affine]:
    """Maps and underlay (i, j, k) turned to the closest RAS axes, the affine of the files, the new affine."""
    paths = {kind: folder / f"{case_id}_{kind}.nii.gz" for kind in (*MAPS, *EXTRA_MAPS)}
    paths = {kind: path for kind, path in paths.items() if kind in MAPS or path.is_file()}
    if underlay is not None:
        paths["underlay"] = underlay
    first = read_any(paths["confidence"])
    shape = first.array.shape
    if len(shape) != 3:
        raise DataError("bad_shape", f"{paths['confidence']} has shape {shape}; a map is 3-D")
    turned: dict[str, Plane] = {}
    target = np.eye(4)
    new_affine = first.affine
    for kind, path in paths.items():
        volume = first if kind == "confidence" else read_any(path)
        array = volume.array[..., 0] if volume.array.ndim == 4 else volume.array
        moved = on_same_grid(array, volume.affine, first.affine, shape, str(path))
        turned[kind], new_affine = reoriented(moved, first.affine, target)
    turned.setdefault("underlay", turned["confidence"])
    return turned, first.affine, new_affine


def through_plane(sizes: Sequence[float]) -> int:
    """The axis with the largest voxels; axial where that is a tie within 1 %."""
    return 2 if sizes[2] >= 0.99 * max(sizes) else int(np.argmax(sizes))


def display(plane: Plane, step: int = 1, kind: str = "") -> Plane:
    """A plane (first axis, second axis) of RAS axes as a picture (rows, columns) in radiological orientation.

    Every `step`-th voxel is kept; of the error map, the maximum of each block, so that no error vanishes. `kind` is the
    name of the map.
    """
    picture = plane.T[::-1, ::-1]
    if step == 1:
        return picture
    if kind != "error":
        return picture[::step, ::step]
    rows, columns = (np.arange(0, n, step) for n in picture.shape)
    return np.maximum.reduceat(np.maximum.reduceat(picture, rows, 0), columns, 1)


def pick_slices(found: Plane, axis: int) -> list[int]:
    """Up to 5 indices, evenly from the first to the last slice with foreground; else the middle slice."""
    others = tuple(k for k in range(3) if k != axis)
    held = np.flatnonzero(found.any(others))
    if not held.size:
        return [found.shape[axis] // 2]
    chosen = np.linspace(0, held.size - 1, min(MAX_SLICES, held.size)).round().astype(int)
    return [int(held[k]) for k in chosen]


def stored_index(affine: Affine, turned: Affine, axis: int, at: int) -> int:
    """Where slice `at` along `axis` of the turned grid lies along the file's own axis, counted from 0."""
    to_file = np.linalg.inv(affine) @ turned
    own = int(np.abs(to_file[:3, axis]).argmax())
    point = np.zeros(4)
    point[axis], point[3] = at, 1
    return round(float((to_file @ point)[own]))


def _slice(index: int, planes: Mapping[str, Plane], limits: tuple[float, float], scales: Scales) -> Slice:
    drawn = {"image": gray_png(planes["underlay"], limits)}
    for kind in (k for k in SHOWN if k in planes):
        drawn[kind] = map_png(kind, planes, limits, scales)
    return Slice(index, drawn, contour_path(planes["label"]), contour_path(planes["prediction"]))


def _known(label: Plane) -> Plane:
    return np.where(label == IGNORED, 0, label)


def _plane(volume: Plane, axis: int, at: int) -> Plane:
    plane: Plane = np.take(volume, at, axis=axis)
    return plane


def _box(found: Plane, axis: int, sizes: Sequence[float]) -> tuple[slice, slice]:
    """The foreground in the plane with a margin; the whole plane where there is none."""
    spans = []
    for k in (k for k in range(3) if k != axis):
        held = np.flatnonzero(found.any(tuple(a for a in range(3) if a != k)))
        if not held.size:
            return slice(None), slice(None)
        margin = max(math.ceil(MARGIN_MM / sizes[k]), 2)
        spans.append(slice(max(int(held[0]) - margin, 0), min(int(held[-1]) + margin + 1, found.shape[k])))
    return spans[0], spans[1]


def _step(box: tuple[slice, slice], max_pixels: int) -> int:
    lengths = [s.stop - s.start for s in box if s.stop is not None]
    return math.ceil(max(lengths, default=1) / max_pixels)


def _window(underlay: Plane) -> tuple[float, float]:
    finite = underlay[np.isfinite(underlay)]
    if not finite.size:
        return 0.0, 1.0
    low, high = np.percentile(finite, (0.5, 99.5))
    return float(low), float(high)
