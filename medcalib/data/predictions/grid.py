"""The grid of a reference, onto which everything is brought."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medcalib.data.geometry import Affine, on_same_grid
from medcalib.data.nifti_header import Header

Place = Callable[[NDArray[Any]], NDArray[Any]]


@dataclass(frozen=True)
class Grid:
    """Where voxels lie: the affine to RAS millimetres and the shape (i, j, k)."""

    affine: Affine
    shape: tuple[int, ...]

    def place(self, affine: Affine, what: str) -> Place:
        """What flips or permutes an array with `affine` onto this grid, where affines prove that it lies there."""
        return lambda array: on_same_grid(array, affine, self.affine, self.shape, what, "the reference")

    def check(self, header: Header, what: str) -> None:
        """Raise `DataError` unless a volume lies on this grid, by its header alone: nothing is read or unpacked."""
        self.place(header.affine, what)(np.broadcast_to(np.uint8(0), header.shape[:3]))
