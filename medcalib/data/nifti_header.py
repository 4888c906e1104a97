"""What a NIfTI-1/2 header says, checked before any voxel is read."""

from __future__ import annotations

import warnings
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from nibabel.spatialimages import HeaderDataError
from numpy.typing import NDArray

from medcalib.data.geometry import usable_affine
from medcalib.errors import DataError

MAX_VOXELS = 2**31
MAX_OFFSET = 1 << 26  # of the voxels: what lies before them is unpacked unread, and header extensions are small
_HEADER_BYTES = {348: nib.Nifti1Header, 540: nib.Nifti2Header}


@dataclass(frozen=True)
class Header:
    """What a NIfTI header says, before any voxel is read. `warnings` holds codes of repaired faults."""

    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    affine: NDArray[np.float64]
    offset: int
    slope: float
    intercept: float
    warnings: tuple[str, ...] = ()

    @property
    def nbytes(self) -> int:
        """Size of the stored voxels."""
        return int(np.prod(self.shape, dtype=np.int64)) * self.dtype.itemsize


def describe(start: bytes) -> str:
    """What a file that is no volume is, by its first bytes; empty when that is unknown."""
    if start.startswith(b"version https://git-lfs"):
        return "a git-LFS pointer, not the volume; fetch it with `git lfs pull`"
    if start.lstrip()[:1] == b"<":
        return "an HTML or XML page, probably a failed download"
    if start[128:132] == b"DICM":
        return "a DICOM file; convert the series to NIfTI, for example with dcm2niix"
    known = {b"PK\x03\x04": "a ZIP archive; unpack it", b"\x89PNG": "a PNG picture", b"\xff\xd8\xff": "a JPEG picture"}
    found = next((what for begin, what in known.items() if start.startswith(begin)), "")
    return found if start else "no data"


def header_size(start: bytes) -> int:
    """The size of the header that a file begins with, in either byte order; 0 for other files."""
    sizes = [int.from_bytes(start[:4], order) for order in ("little", "big")]
    return next((size for size in sizes if size in _HEADER_BYTES), 0)


def parse_header(stream: Any, path: Path, max_voxels: int) -> Header:
    """Read the header at the start of a stream. `DataError` says what the file really is when it is no NIfTI."""
    try:
        start = stream.read(4)
        size = header_size(start)
        if not size:
            what = describe(start + stream.read(508)) or "other data; is the name right?"
            raise DataError("not_nifti", f"{path} holds no NIfTI header: {what}")
        block = start + stream.read(size - 4)
        if len(block) < size:
            raise EOFError(f"{len(block)} of {size} header bytes")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            parsed = _HEADER_BYTES[size](block, check=False)
    except (EOFError, OSError, zlib.error) as error:
        raise DataError("truncated", f"{path} is damaged in its header ({error}); copy it again") from error
    except (ValueError, HeaderDataError) as error:
        raise DataError("not_nifti", f"{path} holds no valid NIfTI header ({error}); copy it again") from error
    return _interpret(parsed, size, path, max_voxels)


def _interpret(parsed: Any, size: int, path: Path, max_voxels: int) -> Header:
    if bytes(parsed["magic"]).rstrip(b"\0")[:3] not in (b"n+1", b"n+2"):
        raise DataError(
            "not_nifti", f"{path} is no single-file NIfTI (Analyze .hdr/.img pairs are not read); convert it to .nii.gz"
        )
    shape = _checked_shape(parsed, path, max_voxels)
    try:
        dtype = parsed.get_data_dtype()
    except (KeyError, HeaderDataError):
        dtype = np.dtype("V")
    if dtype.kind not in "iuf":
        what = "color (RGB)" if dtype.names else str(dtype)
        raise DataError("bad_dtype", f"{path} stores {what} voxels; integers or real floats are needed: convert it")
    try:
        affine, found = usable_affine(parsed, shape, path)
        offset = max(int(parsed["vox_offset"]), size)
    except (ValueError, OverflowError, HeaderDataError) as error:
        raise DataError("bad_header", f"{path} has an unusable header ({error}); convert the volume again") from error
    if offset > MAX_OFFSET:
        raise DataError(
            "bad_header",
            f"{path} puts its voxels at byte {offset:,}, behind the limit of {MAX_OFFSET:,}; convert it again",
        )
    slope, intercept = float(parsed["scl_slope"]), float(parsed["scl_inter"])
    if not np.isfinite(slope) or slope == 0:
        slope, intercept = 1.0, 0.0
    if not np.isfinite(intercept):
        raise DataError(
            "bad_scaling",
            f"{path} has the scaling scl_inter = {intercept}; expected a finite number: correct the header",
        )
    return Header(shape, dtype, affine, offset, slope, intercept, found)


def _checked_shape(parsed: Any, path: Path, max_voxels: int) -> tuple[int, ...]:
    rank = int(parsed["dim"][0])
    sizes = [int(n) for n in parsed["dim"][1 : 1 + max(rank, 0)]]
    while len(sizes) > 3 and sizes[-1] == 1:
        sizes.pop()
    if not 1 <= rank <= 7 or any(n < 1 for n in sizes):
        raise DataError(
            "bad_shape", f"{path} declares impossible dimensions {tuple(parsed['dim'].tolist())}; copy it again"
        )
    if len(sizes) not in (3, 4):
        raise DataError(
            "bad_shape",
            f"{path} has shape {tuple(sizes)}; expected a 3-D or 4-D volume: slices must be stacked into one",
        )
    if any(n == 1 < max(sizes[axis + 1 : 3], default=1) for axis, n in enumerate(sizes[:3])):
        raise DataError(
            "bad_shape", f"{path} has shape {tuple(sizes)}; only the last axes of a volume may have length 1: move or "
            "drop the others (a channel axis comes last)"
        )  # fmt: skip
    voxels = 1
    for n in sizes:
        voxels *= n
    if voxels > max_voxels:
        raise DataError(
            "too_large",
            f"{path} declares {voxels:,} voxels, more than the limit of {max_voxels:,}; crop it, or copy it again",
        )
    return tuple(sizes)
