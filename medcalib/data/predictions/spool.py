"""Anonymous temporary files: where compressed predictions are unpacked, and gone when they are let go of.

They lie in the folder of the environment variable TMPDIR (else the system's), have no name, and are freed by the
system with the last array over them, even after a crash.
"""

from __future__ import annotations

import errno
import shutil
import tempfile
from collections.abc import Callable
from typing import Any, BinaryIO, cast

import numpy as np
from numpy.typing import NDArray

from medcalib.data.predictions.voxels import Mapped, Voxels
from medcalib.errors import DataError
from medcalib.files import DISK_FULL

SMALL_BYTES = 1 << 26  # below this, order on disk does not matter: all pages stay in memory
_BLOCK_BYTES = 1 << 26
Sink = Callable[[Any], None]


def spooled(size: int, fill: Callable[[Sink], None], what: str) -> Mapped:
    """A temporary file of `size` bytes that `fill` hands to its argument piece by piece.

    Raises `DataError` (disk_full) before anything is written where the disk has no room, and when it runs full.
    """
    with _temporary(size, what) as file:
        fill(lambda piece: _write(file, piece, what, size))
        file.flush()
        return Mapped(file, size)


def by_slabs(voxels: Voxels, what: str) -> Voxels:
    """`voxels` as they are, or copied to disk in an order in which a slab along k need not read every page."""
    stored = voxels.channels[0]
    size = stored.nbytes * len(voxels.channels)
    strides = np.abs(stored.strides)
    if size <= SMALL_BYTES or int(np.argmin(strides)) != 2 or voxels.shape[2] == 1:
        return voxels
    slow = int(np.argmax(strides[:2]))  # of i and j, the one along which blocks lie together
    order = (2, slow, 1 - slow)
    shape = tuple(stored.shape[axis] for axis in order)
    with _temporary(size, what) as file:
        for index, channel in enumerate(voxels.channels):
            _rearrange(channel.transpose(order), index * stored.nbytes, file, what, size)
            for mapped in voxels.maps:
                mapped.forget()
        file.flush()
        copy = Mapped(file, size)
    back = np.argsort(order)
    array = copy.array(stored.dtype, (len(voxels.channels), *shape))
    return Voxels(
        tuple(channel.transpose(back) for channel in array),
        (copy,),
        voxels.slope,
        voxels.intercept,
        voxels.clip,
        voxels.normalize,
    )


def _rearrange(source: NDArray[Any], base: int, file: BinaryIO, what: str, size: int) -> None:
    """Write `source` (k, a, b) to `base` in C order, reading it in blocks along a."""
    depth, rows, columns = source.shape
    row = columns * source.dtype.itemsize
    step = max(1, _BLOCK_BYTES // max(1, depth * row))
    for start in range(0, rows, step):
        block = np.ascontiguousarray(source[:, start : start + step])
        for k, plane in enumerate(block):
            file.seek(base + (k * rows + start) * row)
            _write(file, plane.data, what, size)


def _temporary(size: int, what: str) -> BinaryIO:
    folder = tempfile.gettempdir()
    try:
        if shutil.disk_usage(folder).free < size:
            raise _full(what, size)
        return cast(BinaryIO, tempfile.TemporaryFile(dir=folder))
    except OSError as error:
        raise DataError(
            "no_temporary_file", f"{what}: no temporary file can be made in {folder}: {error.strerror}; set TMPDIR"
        ) from error


def _write(file: BinaryIO, piece: Any, what: str, size: int) -> None:
    try:
        file.write(piece)
    except OSError as error:
        if error.errno in (*DISK_FULL, errno.EFBIG):
            raise _full(what, size) from error
        raise DataError(
            "no_temporary_file", f"{what}: the temporary file cannot be written: {error.strerror}"
        ) from error


def _full(what: str, size: int) -> DataError:
    return DataError(
        "disk_full",
        f"{what}: unpacking needs {size / 2**30:.2f} GiB in {tempfile.gettempdir()}, which is full; set TMPDIR to a "
        "folder with room",
    )
