"""Volumes: `.nii` and `.nii.gz`, read whole, by slabs as a prediction, and as a label.

Bytes that are no gzip stream are read as they are and compressed: both ways must agree to the bit.
"""

from __future__ import annotations

import gzip
from pathlib import Path

import numpy as np

from fuzz.harness import FindingError, attempt
from medcalib.data.labels import LabelMap
from medcalib.data.nifti import Volume, read_volume
from medcalib.data.predictions.alone import read_alone

MAX_BYTES = 4096
CLASSES = LabelMap.consecutive(["background", "a"])


def check(data: bytes, folder: Path) -> None:
    """`data` as a volume."""
    if data[:2] == b"\x1f\x8b":
        _read(folder / "c1.nii.gz", data)
        return
    plain, packed = _read(folder / "c1.nii", data), _read(folder / "c1.nii.gz", gzip.compress(data, 1, mtime=0))
    if (plain is None) != (packed is None):
        raise FindingError("read from one of .nii and .nii.gz, refused from the other")
    if plain is not None and packed is not None:
        same = plain.array.dtype == packed.array.dtype and plain.array.tobytes() == packed.array.tobytes()
        if not same or not np.array_equal(plain.affine, packed.affine):
            raise FindingError(".nii and .nii.gz give different voxels")


def words() -> list[str]:
    """Nothing but bytes."""
    return []


def _read(path: Path, data: bytes) -> Volume | None:
    path.write_bytes(data)
    found = attempt(lambda: read_volume(path, dtype=None))
    attempt(lambda: read_alone(path, CLASSES, None).voxels.whole())
    if found is not None:
        attempt(lambda: CLASSES.encode(found.array, path.name))
    path.unlink()
    return found
