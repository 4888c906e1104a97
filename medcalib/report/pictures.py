"""Planes of maps as small PNGs with a palette, and label outlines as SVG paths."""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medcalib.errors import MissingExtraError

Plane = NDArray[Any]
IGNORED = 255
GAP_RANGE = 0.5
ERROR_COLOR, IGNORED_COLOR = (213, 94, 0), (120, 120, 150)
# Okabe and Ito's colors for codes 1, 2, ...; code 0 is dark
CODE_COLORS = (
    (0, 114, 178),
    (230, 159, 0),
    (0, 158, 115),
    (204, 121, 167),
    (86, 180, 233),
    (213, 94, 0),
    (240, 228, 66),
)
NO_CODE_COLOR = (30, 30, 34)
REGION_NAMES = ("background interior", "boundary", "foreground interior")  # codes 0, 1, 2 of the map of regions
SIGNED = ("gap", "true_gap")


@dataclass(frozen=True)
class Scales:
    """Ends of the colors: confidence from `lowest_confidence` to 1 (entropy, which is divided by ln C, from 0 to 1)."""

    lowest_confidence: float = 0.0


def map_png(kind: str, planes: Mapping[str, Plane], limits: tuple[float, float], scales: Scales) -> str:
    """The plane of map `kind` (rows, columns) in its colors as a data URI; errors lie over the dimmed underlay."""
    plane = planes[kind]
    if kind == "error":
        return _error_png(planes, limits)
    if kind == "region":
        codes = np.nan_to_num(np.asarray(plane, np.float64)).astype(int)
        colors = np.where(codes > 0, (codes - 1) % len(CODE_COLORS) + 1, 0)
        colors = np.where(codes == IGNORED, len(CODE_COLORS) + 1, colors)
        return _png(colors.astype(np.uint8), _palette(kind))
    if kind in SIGNED:
        known = np.nan_to_num(np.asarray(plane, np.float64), nan=0.0)
        return _png(_levels(known, -GAP_RANGE, GAP_RANGE, top=254), _palette(kind))
    low = 0.0 if kind == "entropy" else scales.lowest_confidence
    return _png(_levels(np.nan_to_num(np.asarray(plane, np.float64), nan=low), low, 1.0), _palette(kind))


def gray_png(plane: Plane, limits: tuple[float, float]) -> str:
    """An image plane in gray between `limits` as a data URI."""
    return _png(_levels(np.nan_to_num(plane, nan=limits[0]), *limits), None)


def color_bar(kind: str) -> str:
    """A 256 x 1 picture of the colors of a map, low to high, as a data URI."""
    return _png(np.arange(256, dtype=np.uint8)[None], _palette(kind))


def region_colors() -> list[tuple[str, str]]:
    """Name and color (`#rrggbb`) of each region of the map of regions."""
    colors = (NO_CODE_COLOR, *CODE_COLORS)
    return [(name, f"#{bytes(color).hex()}") for name, color in zip(REGION_NAMES, colors, strict=False)]


def contour_path(picture: Plane) -> str:
    """Outlines of every class of a label picture (rows, columns) as SVG path data in half pixels."""
    try:
        from contourpy import contour_generator
    except ImportError as error:
        raise MissingExtraError("report", "matplotlib") from error
    parts = []
    for label in np.unique(picture[(picture > 0) & (picture != IGNORED)]):
        padded = np.pad((picture == label).astype(np.float64), 1)
        for line in contour_generator(z=padded).lines(0.5):
            # outlines of a binary mask run through midpoints of neighbors, so half pixels are exact
            corners = np.rint(2 * (np.asarray(line)[:-1] - 0.5)).astype(int)
            start, moves = corners[0], np.diff(corners, axis=0)
            turns = np.flatnonzero((moves[1:] != moves[:-1]).any(1)) + 1
            moves = np.add.reduceat(moves, np.r_[0, turns])  # straight runs become one move
            parts.append(f"M{start[0]} {start[1]}l" + " ".join(f"{x} {y}" for x, y in moves) + "z")
    return "".join(parts)


def _error_png(planes: Mapping[str, Plane], limits: tuple[float, float]) -> str:
    gray = _levels(np.nan_to_num(planes["underlay"], nan=limits[0]), *limits)
    marked = gray // 2 // 2 + 24  # 24..87: a dim image below the errors
    marked = np.where(planes["label"] == IGNORED, 254, marked)
    marked = np.where(planes["error"] > 0, 255, marked).astype(np.uint8)
    return _png(marked, _palette("error"))


def _levels(plane: Plane, low: float, high: float, *, top: int = 255) -> NDArray[np.uint8]:
    scaled = (np.asarray(plane, np.float64) - low) / max(high - low, 1e-12)
    return np.rint(np.clip(scaled, 0, 1) * top).astype(np.uint8)


def _palette(kind: str) -> list[int]:
    """256 colors as flat RGB. Entry 127 of a signed map is exactly the middle of its colors: no gap is white."""
    try:
        from matplotlib import colormaps
    except ImportError as error:
        raise MissingExtraError("report", "matplotlib") from error
    if kind == "error":
        gray = np.repeat(np.arange(254, dtype=int)[:, None], 3, 1).ravel().tolist()
        return [*gray, *IGNORED_COLOR, *ERROR_COLOR]
    if kind == "region":
        return [*NO_CODE_COLOR, *(part for color in CODE_COLORS for part in color), *IGNORED_COLOR]
    positions = np.arange(256) / 254 if kind in SIGNED else np.arange(256) / 255
    colors = colormaps["RdBu_r" if kind in SIGNED else "cividis"](np.clip(positions, 0, 1))
    flat: list[int] = np.rint(colors[:, :3] * 255).astype(int).ravel().tolist()
    return flat


def _png(levels: NDArray[np.uint8], palette: list[int] | None) -> str:
    try:
        from PIL import Image  # matplotlib depends on it
    except ImportError as error:
        raise MissingExtraError("report", "matplotlib") from error
    image = Image.fromarray(np.ascontiguousarray(levels))
    if palette is not None:
        image.putpalette(palette)
    stream = io.BytesIO()
    image.save(stream, format="PNG", optimize=True)
    return "data:image/png;base64," + base64.b64encode(stream.getvalue()).decode()
