"""4-D NIfTI (channels last), the layout that medcalib and MONAI's SaveImage write."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, BinaryIO, cast

from numpy.typing import NDArray

from medcalib.data.nifti import TRAILING_BYTES, copy_voxels, read_header
from medcalib.data.nifti_header import Header
from medcalib.data.predictions.channels import MAX_VALUES
from medcalib.data.predictions.spool import Sink, spooled
from medcalib.data.predictions.voxels import Mapped, Voxels, one_file
from medcalib.errors import DataError


def volume_header(path: Path, names: Sequence[str]) -> Header:
    """The header of a 4-D volume with the classes last, or 3-D with a single one. `DataError`: channel_count."""
    header = read_header(path, max_voxels=MAX_VALUES)
    if (header.shape[3:] or (1,)) == (len(names),):
        return header
    hint = ""
    if len(header.shape) == 3:
        hint = (
            "; this looks like a label map, not like probabilities (nnU-Net writes them as .npz with "
            "--save_probabilities)"
        )
    elif header.shape[0] == len(names):
        hint = "; the class axis is first, move it last"
    raise DataError(
        "channel_count",
        f"{path} has shape {header.shape}; expected 4-D with the {len(names)} channels ({', '.join(names)}) last{hint}",
    )


def read_volume_channels(path: Path, header: Header) -> Voxels:
    """The channels of a 4-D volume, mapped; a compressed file is unpacked and checked to its last byte."""
    mapped, array = mapped_voxels(path, header)
    channels = [array] if array.ndim == 3 else [array[..., k] for k in range(array.shape[3])]
    return one_file(mapped, channels, slope=header.slope, intercept=header.intercept)


def mapped_voxels(path: Path, header: Header) -> tuple[Mapped, NDArray[Any]]:
    """The stored values of a volume as a mapped array in array order."""
    if path.name.endswith(".gz"):

        def unpack(sink: Sink) -> None:
            copy_voxels(path, header, sink)

        mapped = spooled(header.nbytes, unpack, str(path))
        return mapped, mapped.array(header.dtype, header.shape, fortran=True)
    try:
        size, expected = path.stat().st_size, header.offset + header.nbytes
        if size < expected:
            raise DataError("truncated", f"{path} has {size:,} of {expected:,} bytes; copy it again")
        if size > expected + TRAILING_BYTES:
            raise DataError("trailing_data", f"{path} holds more data than its header declares; write it again")
        with path.open("rb") as stream:
            mapped = Mapped(cast(BinaryIO, stream), expected)
    except OSError as error:
        raise DataError("unreadable", f"{path} cannot be read: {error.strerror}") from error
    return mapped, mapped.array(header.dtype, header.shape, offset=header.offset, fortran=True)
