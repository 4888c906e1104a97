"""Channels on disk, given out as float32 slabs: a prediction may be larger than memory."""

from __future__ import annotations

import mmap
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]


class Mapped:
    """A file in memory by the system's paging; `forget` hands the pages that were read back to the system.

    The file may be closed and deleted meanwhile: its bytes live until the last array over them is gone.
    """

    def __init__(self, file: BinaryIO, size: int) -> None:
        self._map = mmap.mmap(file.fileno(), size, access=mmap.ACCESS_READ)

    def array(self, dtype: np.dtype[Any], shape: tuple[int, ...], *, offset: int = 0, fortran: bool = False) -> Array:
        """The bytes from `offset` on as an array that cannot be written."""
        count = int(np.prod(shape, dtype=np.int64))
        flat = np.frombuffer(self._map, dtype, count, offset)
        return flat.reshape(shape, order="F" if fortran else "C")

    def forget(self) -> None:
        """Keep no page of the file resident; a later read fetches it again."""
        if hasattr(mmap, "MADV_DONTNEED"):  # not on Windows
            self._map.madvise(mmap.MADV_DONTNEED)


@dataclass(frozen=True)
class Voxels:
    """C channels (i, j, k) of any stored type, each a view; values are `stored * slope + intercept`.

    `clip` cuts to [0, 1] (rounding only; `checks` decides), `normalize` divides by the sum over channels (for
    quantized probabilities).
    """

    channels: tuple[Array, ...]
    maps: tuple[Mapped, ...] = ()
    slope: float = 1.0
    intercept: float = 0.0
    clip: bool = False
    normalize: bool = False

    @property
    def shape(self) -> tuple[int, int, int]:
        """Shape (i, j, k) of each channel."""
        i, j, k = self.channels[0].shape
        return i, j, k

    @property
    def dtype(self) -> np.dtype[Any]:
        """The stored type of the first channel."""
        return self.channels[0].dtype

    def turned(self, turn: Callable[[Array], Array]) -> Voxels:
        """The same voxels under a flip or permutation of axes; nothing is copied."""
        return replace(self, channels=tuple(turn(channel) for channel in self.channels))

    def slow_axis(self) -> int:
        """The axis along which slabs lie together on disk."""
        return int(np.argmax(np.abs(self.channels[0].strides)))

    def slabs(self, max_voxels: int, axis: int = 2) -> Iterator[tuple[slice, NDArray[np.float32]]]:
        """Slices along `axis` with values (C, i, j, k) float32 of at most `max_voxels` voxels, or of one plane."""
        length = self.shape[axis]
        plane = max(1, int(np.prod(self.shape, dtype=np.int64)) // max(1, length))
        step = max(1, max_voxels // plane)
        for start in range(0, length, step):
            part = slice(start, min(start + step, length))
            yield part, self._read(part, axis)
            for mapped in self.maps:
                mapped.forget()

    def whole(self) -> NDArray[np.float32]:
        """All values (C, i, j, k) float32 in memory."""
        return self._read(slice(None), 2)

    def _read(self, part: slice, axis: int) -> NDArray[np.float32]:
        where = (*[slice(None)] * axis, part)
        first = self.channels[0][where]
        values = np.empty((len(self.channels), *first.shape), np.float32)
        scaled = (self.slope, self.intercept) != (1.0, 0.0)
        with np.errstate(over="ignore", invalid="ignore"):  # what float32 cannot hold becomes infinite, and is refused
            for out, channel in zip(values, self.channels, strict=True):
                stored = channel[where]
                out[...] = stored.astype(np.float64) * self.slope + self.intercept if scaled else stored
        if self.clip:
            np.clip(values, 0, 1, out=values)
        if self.normalize:
            values /= values.sum(0)
        return values


def channels_first(array: Array) -> tuple[Array, ...]:
    """The channels of an array (C, i, j, k)."""
    return tuple(array)


def one_file(mapped: Mapped, channels: Sequence[Array], *, slope: float = 1.0, intercept: float = 0.0) -> Voxels:
    """Channels that lie in one mapped file."""
    return Voxels(tuple(channels), (mapped,), slope, intercept)
