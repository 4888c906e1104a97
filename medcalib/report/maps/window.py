"""The window of the local gap, and means over it in a volume that arrives slab by slab."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import isfinite
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from medcalib.errors import ConfigError
from medcalib.ops import window_mean

WINDOW_MM = 9.0
_CHANNELS = 4  # pooled together: they share the count of valid voxels, and bound the memory
Size = tuple[int, int, int]


@dataclass(frozen=True)
class Window:
    """The voxels around a voxel: an edge in mm, or odd numbers of voxels, one for all array axes or one for each."""

    mm: float | None = WINDOW_MM
    voxels: tuple[int, ...] | None = None

    @classmethod
    def of(cls, mm: float | None = None, voxels: int | Sequence[int] | None = None) -> Window:
        """The window that is asked for, `WINDOW_MM` where none is. Raises `ConfigError`."""
        if voxels is None:
            mm = WINDOW_MM if mm is None else mm
            if not (mm > 0 and isfinite(mm)):
                raise ConfigError(f"window_mm must be positive, got {mm}")
            return cls(mm)
        if mm is not None:
            raise ConfigError(f"give the window in mm or in voxels, not both: got {mm:g} mm and {voxels} voxels")
        sizes = (voxels,) if isinstance(voxels, int) else tuple(voxels)
        if len(sizes) not in (1, 3) or any(n < 1 or n % 2 == 0 for n in sizes):
            shown = ",".join(map(str, sizes))
            raise ConfigError(f"window must be one odd number of voxels, or three, one per array axis; got {shown}")
        return cls(None, sizes)

    def size(self, spacing_mm: Sequence[float], shape: Sequence[int]) -> Size:
        """Odd voxels along each array axis; never more than reach every voxel of `shape` from any other.

        `spacing_mm`: the edges of a voxel.
        """
        wanted = window_voxels(spacing_mm, self.mm) if self.mm is not None else self.voxels or (1,)
        i, j, k = (
            min(n, 2 * length - 1) for n, length in zip(wanted if len(wanted) == 3 else wanted * 3, shape, strict=True)
        )
        return i, j, k


def window_voxels(spacing_mm: Sequence[float], window_mm: float) -> tuple[int, ...]:
    """The odd number of voxels per axis that comes closest to `window_mm`: thick slices stay alone."""
    return tuple(max(1, 2 * round((window_mm / edge - 1) / 2) + 1) for edge in spacing_mm)


class WindowMeans:
    """Means over the window around each voxel, of slabs along the last axis that are added in order.

    A slab is finished when half a window behind it has been seen; the bits do not depend on how a volume is cut.
    """

    def __init__(self, size: Size, depth: int) -> None:
        self._size, self._depth, self._half = size, depth, size[-1] // 2
        self._parts: list[tuple[NDArray[np.float32], NDArray[np.bool_]]] = []
        self._seen = self._done = 0

    def add(self, values: NDArray[np.float32], valid: NDArray[np.bool_]) -> NDArray[np.float32] | None:
        """Add values (K, i, j, n) and which of them count (i, j, n); returns the next finished slab, if there is one.

        Where a voxel does not count, its mean is 0.
        """
        self._parts.append((values, valid))
        self._seen += valid.shape[-1]
        whole = self._seen == self._depth
        ready = self._seen if whole else self._seen - self._half
        if not whole and ready - self._done < max(
            1, 2 * self._half
        ):  # else most planes would be pooled again and again
            return None
        values, valid = (np.concatenate(parts, -1) for parts in zip(*self._parts, strict=True))
        first = self._seen - valid.shape[-1]
        means = self._means(values, valid)[..., self._done - first : ready - first]
        kept = slice(max(ready - self._half - first, 0), None)
        self._parts = [(values[..., kept], valid[..., kept])]
        self._done = ready
        return means

    def _means(self, values: NDArray[np.float32], valid: NDArray[np.bool_]) -> NDArray[Any]:
        counted = torch.from_numpy(valid)[None]
        means = np.empty_like(values)
        for start in range(0, len(values), _CHANNELS):
            part = slice(start, start + _CHANNELS)
            pooled = window_mean(torch.from_numpy(values[part])[None], self._size, counted)[0].numpy()
            np.copyto(means[part], np.where(valid, pooled, 0))
        return means
