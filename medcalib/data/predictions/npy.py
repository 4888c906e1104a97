"""`.npy`: channels (C, i, j, k) or, as in nnU-Net, (C, k, j, i); the order is settled by `orientation`."""

from __future__ import annotations

import io
import warnings
from dataclasses import dataclass
from pathlib import Path
from tokenize import TokenError
from typing import Any, BinaryIO, cast

import numpy as np

from medcalib.data.predictions.voxels import Mapped, Voxels, channels_first, one_file
from medcalib.errors import DataError

_MAX_HEADER = 1 << 14  # numpy reads a header whole before it judges its length, which may claim 4 GB
_HEADER_READERS = {
    (1, 0): np.lib.format.read_array_header_1_0,
    (2, 0): np.lib.format.read_array_header_2_0,
}
# numpy reads the header as a Python literal (never evaluated), and damage shows in many ways
_PARSER_ERRORS = (
    ValueError, KeyError, TypeError, AttributeError, EOFError, SyntaxError, TokenError, OverflowError, RecursionError,
    MemoryError,
)  # fmt: skip


@dataclass(frozen=True)
class ArrayHeader:
    """Shape, type and order that the header of an array declares, and how many bytes it takes itself."""

    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    fortran: bool
    offset: int

    @property
    def nbytes(self) -> int:
        """Declared size of the values (a Python integer: headers may declare absurd sizes)."""
        size = self.dtype.itemsize
        for n in self.shape:
            size *= n
        return size


def array_header(stream: BinaryIO, what: str) -> ArrayHeader:
    """The header at the start of a stream. Raises `DataError`: not_npy, pickled_array, bad_dtype, bad_shape.

    Arrays of Python objects are refused: they are pickles, and unpickling runs whatever they say.
    """
    try:
        start = io.BytesIO(stream.read(_MAX_HEADER))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of odd literals, and of headers that Python 2 wrote
            version = np.lib.format.read_magic(start)
            shape, fortran, dtype = _HEADER_READERS[version](start)
    except _PARSER_ERRORS as error:
        raise DataError("not_npy", f"{what} holds no readable array header; save it again with numpy.save") from error
    if dtype.hasobject:
        raise DataError(
            "pickled_array", f"{what} holds Python objects (a pickle), which are never loaded; save a plain array"
        )
    if dtype.kind not in "fiub":
        raise DataError("bad_dtype", f"{what} stores {dtype} values; real floats or integers are needed: convert it")
    if len(shape) != 4 or any(n < 1 for n in shape):
        raise DataError("bad_shape", f"{what} has shape {shape}; expected 4-D, the channels first")
    return ArrayHeader(tuple(map(int, shape)), dtype, fortran, start.tell())


def npy_header(path: Path) -> ArrayHeader:
    """The checked header of a `.npy` file, whose size must fit it."""
    try:
        with path.open("rb") as stream:
            header = array_header(cast(BinaryIO, stream), str(path))
        size = path.stat().st_size
    except OSError as error:
        raise DataError("unreadable", f"{path} cannot be read: {error.strerror}") from error
    expected = header.offset + header.nbytes
    if size != expected:
        code = "truncated" if size < expected else "trailing_data"
        raise DataError(code, f"{path} has {size:,} bytes, its header declares {expected:,}; copy it again")
    return header


def read_npy(path: Path, header: ArrayHeader) -> Voxels:
    """The channels in stored axes, mapped, not read."""
    with path.open("rb") as stream:
        mapped = Mapped(cast(BinaryIO, stream), header.offset + header.nbytes)
    array = mapped.array(header.dtype, header.shape, offset=header.offset, fortran=header.fortran)
    return one_file(mapped, channels_first(array))
