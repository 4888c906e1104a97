"""nnU-Net's `.npz`: `probabilities` (version 2, whole image) or `softmax` (version 1, often cropped), (C, z, y, x)."""

from __future__ import annotations

import lzma
import struct
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, cast

from medcalib.data.predictions.npy import ArrayHeader, array_header
from medcalib.data.predictions.spool import Sink, spooled
from medcalib.data.predictions.voxels import Voxels, channels_first, one_file
from medcalib.errors import DataError

KEYS = ("probabilities", "softmax")
_PIECE = 1 << 24
# what zipfile and its decompressors make of a damaged archive (ValueError: names that are no UTF-8, negative places)
_DAMAGE = (
    zipfile.BadZipFile, zlib.error, lzma.LZMAError, struct.error, EOFError, ValueError, OverflowError, RuntimeError,
)  # fmt: skip


@dataclass(frozen=True)
class Member:
    """The one array of an archive that is read, and its header."""

    key: str
    name: str
    header: ArrayHeader


def npz_member(path: Path) -> Member:
    """Which array the archive holds, from the header of its member alone: nothing is unpacked.

    Raises `DataError`: not_npz, npz_keys (neither or both arrays), encrypted, size_mismatch, and what
    `array_header` raises. Names inside the archive are compared, never used as paths.
    """
    with _opened(path) as archive:
        names = [info.filename for info in archive.infolist()]
        found = [key for key in KEYS if f"{key}.npy" in names]
        if len(found) != 1 or names.count(f"{found[0]}.npy") != 1:
            shown = ", ".join(ascii(name.removesuffix(".npy")[:40]) for name in sorted(names)[:8]) or "nothing"
            raise DataError(
                "npz_keys",
                f"{path} holds {shown}; expected one array `probabilities` (nnU-Net 2) or `softmax` (1)",
            )
        info = archive.getinfo(f"{found[0]}.npy")
        if info.flag_bits & 1:
            raise DataError("encrypted", f"{path} is encrypted; save it without a password")
        with archive.open(info) as stream:
            header = array_header(cast(BinaryIO, stream), str(path))
    if info.file_size != header.offset + header.nbytes:
        raise DataError(
            "size_mismatch",
            f"{path} says that its array has {info.file_size:,} bytes, the array's header says "
            f"{header.offset + header.nbytes:,}; it is damaged: save it again",
        )
    return Member(found[0], info.filename, header)


def read_npz(path: Path, member: Member) -> Voxels:
    """The channels in stored axes, unpacked into a temporary file and checked by the archive's checksum."""

    def unpack(sink: Sink) -> None:
        with _opened(path) as archive, archive.open(member.name) as stream:
            stream.read(member.header.offset)
            left = member.header.nbytes
            while left:
                piece = stream.read(min(_PIECE, left))
                if not piece:
                    raise EOFError(f"{left:,} bytes are missing")
                sink(piece)
                left -= len(piece)
            stream.read(1)  # the checksum is compared at the end of the member

    mapped = spooled(member.header.nbytes, unpack, str(path))
    array = mapped.array(member.header.dtype, member.header.shape, fortran=member.header.fortran)
    return one_file(mapped, channels_first(array))


@contextmanager
def _opened(path: Path) -> Iterator[zipfile.ZipFile]:
    try:
        with zipfile.ZipFile(path) as archive:
            yield archive
    except _DAMAGE as error:
        raise DataError("damaged_npz", f"{path} is no whole .npz archive ({error}); copy it again") from error
    except OSError as error:
        raise DataError("unreadable", f"{path} cannot be read: {error.strerror or error}") from error
