"""Reading MetaImage and NRRD by SimpleITK, which notices a file that is cut off, but no flipped bit.

Of a compressed file a flipped bit spoils many voxels. The checksum of gzip in an NRRD is checked here; compressed
MetaImage (zlib) is refused, since ITK does not look at its checksum either. In uncompressed files and in the text of
their headers nothing tells a flipped bit.
"""

from __future__ import annotations

import gzip
import re
import zlib
from math import prod
from pathlib import Path
from typing import Any

import numpy as np

from medcalib.data.detached import HEADER_BYTES, voxel_file
from medcalib.data.geometry import UNUSABLE, is_singular
from medcalib.data.nifti import TRAILING_BYTES, Volume
from medcalib.data.nifti_header import MAX_VOXELS
from medcalib.errors import DataError

FORMATS = (".mha", ".mhd", ".nrrd")
_PIECE = 1 << 20
_COMPRESSED = re.compile(rb"CompressedData\s*=\s*[Tt1]")
_ENCODING = re.compile(rb"^encoding:\s*(\S+)", re.MULTILINE)
_END = re.compile(rb"\r?\n\r?\n")


def read_by_itk(path: Path, *, dtype: Any) -> Volume:
    """Read a MetaImage or NRRD file of three axes. `dtype=None` keeps the stored type. Raises `DataError`."""
    import SimpleITK as sitk  # noqa: N813 - its documented name

    voxels = voxel_file(path)
    reader = sitk.ImageFileReader()
    reader.SetFileName(str(path))
    try:
        reader.ReadImageInformation()
        size, components = reader.GetSize(), reader.GetNumberOfComponents()
        if len(size) != 3 or components != 1:
            raise DataError(
                "bad_shape",
                f"{path} has shape {size} with {components} values a voxel; expected 3-D with 1: save one "
                "channel a file",
            )
        if prod(size) > MAX_VOXELS:
            raise DataError(
                "too_large",
                f"{path} declares {prod(size):,} voxels, more than {MAX_VOXELS:,}; crop it, or copy it again",
            )
        _verify(path, voxels, prod(size) * sitk.Image(1, 1, reader.GetPixelID()).GetSizeOfPixelComponent())
        image = reader.Execute()
    except RuntimeError as error:
        raise DataError(
            "unreadable", f"{path} is no whole {path.suffix} file; copy it again ({_last(error)})"
        ) from error
    array = np.transpose(sitk.GetArrayFromImage(image))
    affine = np.eye(4)
    affine[:3, :3] = np.reshape(image.GetDirection(), (3, 3)) * np.array(image.GetSpacing())
    affine[:3, 3] = image.GetOrigin()
    to_ras = np.diag([-1.0, -1.0, 1.0, 1.0])  # ITK's world is LPS
    placed = to_ras @ affine
    if is_singular(placed):
        raise DataError("bad_affine", UNUSABLE.format(path, np.round(placed[:3], 4).tolist()))
    return Volume(array if dtype is None else array.astype(dtype), placed)


def _last(error: RuntimeError) -> str:
    """The line in which ITK says what it found, without its own prefixes."""
    return re.sub(r"^(?:sitk::ERROR: |\[nrrd\] \w+: )", "", str(error).strip().splitlines()[-1])


def _verify(path: Path, voxels: Path, expected: int) -> None:
    """Refuse a file that cannot hold `expected` bytes of voxels, or whose damage cannot be noticed."""
    with path.open("rb") as stream:
        start = stream.read(HEADER_BYTES)
        if path.suffix.lower() != ".nrrd":
            if _COMPRESSED.search(start):
                raise _unverifiable(path, "compressed MetaImage")
            _require_bytes(voxels, expected)
            return
        end, encoding = _END.search(start), _ENCODING.search(start)
        if end is None or encoding is None or encoding.start() > end.start():
            raise DataError(
                "unreadable", f"{path} has no NRRD header of less than {HEADER_BYTES:,} bytes; write it again"
            )
        if encoding[1] in (b"gzip", b"gz"):
            stream.seek(end.end())
            _check_gzip(stream, expected, path)
        elif encoding[1] == b"raw":
            _require_bytes(path, expected)
        elif encoding[1] not in (b"ascii", b"text", b"txt", b"hex"):
            raise _unverifiable(path, f"NRRD of encoding {encoding[1].decode(errors='replace')[:20]}")


def _require_bytes(path: Path, expected: int) -> None:
    """Before memory is taken; a file that is missing is left to ITK to name."""
    if path.is_file() and (size := path.stat().st_size) < expected:
        raise DataError("truncated", f"{path} has {size:,} bytes, too few for {expected:,} of voxels; copy it again")


def _check_gzip(stream: Any, expected: int, path: Path) -> None:
    left = expected + TRAILING_BYTES
    try:
        with gzip.GzipFile(fileobj=stream) as packed:
            while left >= 0 and (piece := packed.read(_PIECE)):
                left -= len(piece)
    except (EOFError, OSError, zlib.error) as error:
        raise DataError("damaged_gzip", f"{path} is damaged ({error}); copy it again") from error
    if left < 0:
        raise DataError("trailing_data", f"{path} holds more data than its header declares; write it again")


def _unverifiable(path: Path, what: str) -> DataError:
    return DataError("unverifiable", f"{path} is {what}, whose damage cannot be noticed; convert it to .nii.gz")
