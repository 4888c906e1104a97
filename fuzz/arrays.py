"""Predictions in numpy's formats: `.npy` and `.npz` beside a reference.

Bytes that are no archive are read as a `.npy` and once more as a member of a `.npz`.
"""

from __future__ import annotations

import zipfile
from functools import cache
from pathlib import Path

import numpy as np

from fuzz.harness import FindingError, attempt
from medcalib.data.case import Case
from medcalib.data.labels import LabelMap
from medcalib.data.nifti import write_volume
from medcalib.data.predictions import Compared, Pair, read_pair

MAX_BYTES = 4096
CLASSES = LabelMap.consecutive(["background", "a"])
SHAPE = (3, 4, 5)


def check(data: bytes, folder: Path) -> None:
    """`data` as an array of probabilities or of logits."""
    if data[:2] == b"PK":
        _read(folder / "c1.npz", data)
        return
    _read(folder / "c1.npy", data)
    with zipfile.ZipFile(folder / "c1.npz", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("probabilities.npy", data)
    _read(folder / "c1.npz", None)


def words() -> list[str]:
    """Parts of headers and archives."""
    return ["'descr': '<f4'", "'descr': '|O'", "'fortran_order': True", "'shape': (2, 3, 4, 5)", "probabilities.npy",
            "softmax.npy", "PK\\x03\\x04", "PK\\x01\\x02", "PK\\x05\\x06", "\\x93NUMPY\\x02\\x00"]  # fmt: skip


@cache
def _reference(folder: Path) -> Path:
    label = np.zeros(SHAPE, np.uint8)
    label[1] = 1
    write_volume(folder / "label.nii", label, np.eye(4))
    return folder / "label.nii"


def _read(path: Path, data: bytes | None) -> None:
    if data is not None:
        path.write_bytes(data)
    pair = Pair(Case("c1", "c1", (), _reference(path.parent)), path)

    def values(*, logits: bool) -> Compared:
        return read_pair(pair, CLASSES, assume_logits=logits, assume_orientation=True)

    for logits in (False, True):
        found = attempt(lambda logits=logits: values(logits=logits))
        if found is not None:
            probs = found.probs
            if not (np.isfinite(probs).all() and probs.min() >= 0 and probs.max() <= 1.001):
                raise FindingError(f"accepted probabilities span {probs.min()}..{probs.max()}")
            found.close()
    path.unlink()
