"""Reading and writing NIfTI-1/2 so that a damaged file is refused, never silently wrong.

Why not a library call alone: nibabel stops before the gzip trailer and so misses bit flips; ITK fills
truncated files with zeros. Here the stream is read to its very end, which makes gzip check its CRC, and
header extensions (where names of patients hide) are skipped unread.
"""

from __future__ import annotations

import gzip
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from io import BufferedReader
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from numpy.typing import NDArray

from medcalib.data.geometry import voxel_sizes
from medcalib.data.nifti_header import MAX_VOXELS, Header, describe, header_size, parse_header
from medcalib.errors import DataError
from medcalib.files import atomic, open_regular

TRAILING_BYTES = 1 << 16  # padding behind the voxels that is still tolerated
_DEFLATE_RATIO = 1032  # no gzip file unpacks to more times its size
_PIECE = 1 << 24


@dataclass(frozen=True)
class Volume:
    """Voxels in array order (i, j, k[, channel]) with the affine to RAS millimetres.

    `warnings` tell what was repaired.
    """

    array: NDArray[Any]
    affine: NDArray[np.float64]
    warnings: tuple[str, ...] = ()

    @property
    def spacing_mm(self) -> tuple[float, float, float]:
        """Edge lengths of a voxel along the three array axes, in mm."""
        return voxel_sizes(self.affine)


def read_header(path: Path, *, max_voxels: int = MAX_VOXELS) -> Header:
    """Read and check the header alone. `DataError` says what the file really is when it is no NIfTI."""
    with _open(path) as stream:
        return parse_header(stream, path, max_voxels)


def read_volume(path: Path, *, dtype: Any = np.float32, max_voxels: int = MAX_VOXELS) -> Volume:
    """Read a whole `.nii` or `.nii.gz`, scaled by scl_slope and scl_inter, verified to its last byte.

    `dtype=None` keeps the stored type when the file is not scaled (float64 when it is). Trailing axes of
    size 1 are dropped. Raises `DataError` on damage, on impossible headers and on unusable geometry. An image of more
    than `max_voxels` is refused before its voxels are read.
    """
    with _open(path) as stream:
        header = parse_header(stream, path, max_voxels)
        _require_bytes(path, header)
        raw = np.empty(header.nbytes, np.uint8)
        _read_exactly(stream, memoryview(raw.data), header, path)
    stored = raw.view(header.dtype).reshape(header.shape, order="F")
    return Volume(_scaled(stored, header, dtype), header.affine, header.warnings)


@dataclass(frozen=True)
class About:
    """What a header says beside the geometry: a text, the values that a viewer spans first, what the values mean.

    `text` is cut to the 79 bytes of `descrip`; `intent` is NIfTI's: `none`, `estimate`, or `label` for indices.
    """

    text: str = ""
    low: float = 0.0
    high: float = 0.0
    intent: str = "none"


def write_volume(path: Path, array: NDArray[Any], affine: NDArray[np.float64], about: About | None = None) -> None:
    """Write `array` (i, j, k[, channel]) atomically with a fresh header: sform = qform, mm, no text but `about`.

    Raises OSError where `path` cannot be written.
    """
    array = np.asarray(array)
    with volume_writer(path, array.shape, array.dtype, affine, about) as append:
        append(array)


@contextmanager
def volume_writer(
    path: Path, shape: Sequence[int], dtype: Any, affine: NDArray[np.float64], about: About | None = None
) -> Iterator[Callable[[NDArray[Any]], None]]:
    """Write a volume in parts: slabs along its last axis, in order, so that it need not fit into memory.

    The file appears, with the bytes of `write_volume`, when the block ends without an error. Raises ValueError
    unless the slabs fill `shape`.
    """
    header = _fresh_header(shape, dtype, affine, about or About())
    stored, done = header.get_data_dtype(), 0
    level = 1 if stored.kind == "f" else 6  # floats hardly compress, labels do
    with atomic(path) as temporary, ExitStack() as opened:
        stream: Any = opened.enter_context(temporary.open("wb"))
        if path.name.endswith(".gz"):
            # no file name and no clock in the gzip header: equal voxels give equal bytes
            stream = opened.enter_context(gzip.GzipFile("", "wb", level, stream, mtime=0))
        stream.write(header.binaryblock + bytes(int(header["vox_offset"]) - header.sizeof_hdr))

        def append(slab: NDArray[Any]) -> None:
            nonlocal done
            if slab.shape[:-1] != tuple(shape[:-1]) or done + slab.shape[-1] > shape[-1]:
                raise ValueError(f"slab {slab.shape} does not fit into {tuple(shape)} behind {done} others")
            for index in range(slab.shape[-1]):
                stream.write(slab[..., index].astype(stored, copy=False).tobytes(order="F"))
            done += slab.shape[-1]

        yield append
        if done != shape[-1]:
            raise ValueError(f"{done} of {shape[-1]} positions along the last axis were written")


def _fresh_header(shape: Sequence[int], dtype: Any, affine: NDArray[np.float64], about: About) -> Any:
    image = nib.Nifti1Image(np.broadcast_to(np.zeros((), dtype), tuple(shape)), affine)
    header = image.header
    header.set_xyzt_units("mm")
    image.set_sform(affine, code=1)
    image.set_qform(affine, code=1)
    header.set_slope_inter(1, 0)
    header["descrip"] = about.text.encode("ascii", "replace")[:79]
    header["cal_min"], header["cal_max"] = about.low, about.high
    if about.intent != "none":
        header.set_intent(about.intent)
    header["vox_offset"] = header.single_vox_offset
    return header


def is_nifti(path: Path) -> bool:
    """Whether the name is that of a NIfTI volume (dot files, such as macOS `._x`, are not)."""
    return path.name.endswith((".nii", ".nii.gz")) and not path.name.startswith(".")


def stem(path: Path) -> str:
    """File name without `.nii` or `.nii.gz`."""
    return path.name.removesuffix(".gz").removesuffix(".nii")


def _open(path: Path) -> BufferedReader | gzip.GzipFile:
    if path.exists() and not path.is_file():
        raise DataError("unreadable", f"{path} is no regular file; name a volume")  # a pipe would be waited for
    try:
        with open_regular(path) as stream:
            start = stream.read(512)
    except OSError as error:
        raise DataError("unreadable", f"{path} cannot be read: {error.strerror}") from error
    if not start:
        raise DataError("empty_file", f"{path} is empty; copy it again")
    packed = start[:2] == b"\x1f\x8b"
    if path.name.endswith(".gz") and not packed:
        uncompressed = bool(header_size(start))
        what = "an uncompressed NIfTI file named .gz; rename it to .nii" if uncompressed else describe(start)
        raise DataError("not_gzip", f"{path} is {what or 'no gzip file although its name ends with .gz'}")
    if packed and not path.name.endswith(".gz"):
        raise DataError("not_nifti", f"{path} is gzip data without .gz in its name; rename it to .nii.gz")
    return gzip.open(path) if packed else path.open("rb")


def _require_bytes(path: Path, header: Header) -> None:
    """Refuse a header that declares more than the file can hold, before memory is taken for it."""
    size, expected = path.stat().st_size, header.offset + header.nbytes
    if expected > size * (_DEFLATE_RATIO if path.name.endswith(".gz") else 1):
        raise DataError(
            "truncated", f"{path} has {size:,} bytes, too few for {expected:,} that its header declares; copy it again"
        )


def copy_voxels(path: Path, header: Header, sink: Callable[[memoryview], None]) -> None:
    """Hand the stored bytes of the voxels to `sink` piece by piece, in bounded memory, verified to the last byte."""
    _require_bytes(path, header)
    buffer, left = memoryview(bytearray(min(_PIECE, header.nbytes))), header.nbytes
    with _open(path) as stream, _damage_named(path):
        stream.seek(header.offset)
        while left:
            piece = buffer[: min(len(buffer), left)]
            _fill(stream, piece, header, path, header.nbytes - left)
            sink(piece)
            left -= len(piece)
        _ended(stream, path)


def _read_exactly(stream: Any, view: memoryview, header: Header, path: Path) -> None:
    """Fill `view` with the voxels, then read the stream to its end, so that gzip checks its checksum."""
    with _damage_named(path):
        stream.seek(header.offset)
        _fill(stream, view, header, path, 0)
        _ended(stream, path)


@contextmanager
def _damage_named(path: Path) -> Iterator[None]:
    try:
        yield
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise DataError("damaged_gzip", f"{path} is damaged ({error}); copy it again") from error
    except OSError as error:
        raise DataError("unreadable", f"{path} cannot be read: {error.strerror or error}") from error


def _fill(stream: Any, view: memoryview, header: Header, path: Path, before: int) -> None:
    got = 0
    while got < len(view):
        count = stream.readinto(view[got : got + _PIECE])
        if not count:
            raise DataError(
                "truncated", f"{path} ends after {before + got:,} of {header.nbytes:,} voxel bytes; copy it again"
            )
        got += count


def _ended(stream: Any, path: Path) -> None:
    if len(stream.read(TRAILING_BYTES + 1)) > TRAILING_BYTES:
        raise DataError("trailing_data", f"{path} holds more data than its header declares; write it again")


def _scaled(stored: NDArray[Any], header: Header, dtype: Any) -> NDArray[Any]:
    if (header.slope, header.intercept) == (1.0, 0.0):
        return stored if dtype is None else stored.astype(dtype, copy=False)
    scaled = stored.astype(np.float64) * header.slope + header.intercept
    return scaled if dtype is None else scaled.astype(dtype, copy=False)
