"""Where the voxels of MetaImage and NRRD files lie: in the file, or in one plain file beside it.

Both formats may name any other file, and ITK reads whatever is named: a volume that somebody handed over could turn
private files of the reader into voxels, which maps and reports then show.
"""

from __future__ import annotations

import re
from pathlib import Path

from medcalib.errors import DataError
from medcalib.files import open_regular

HEADER_BYTES = 1 << 16  # real headers have some hundred bytes
_META = re.compile(rb"(?:\A|[\r\n])[ \t]*ElementDataFile[ \t]*=[ \t]*([^\r\n]*?)[ \t]*[\r\n]")
_NRRD = re.compile(rb"[\r\n][ \t]*data[ \t]*file[ \t]*:", re.IGNORECASE)


def voxel_file(path: Path) -> Path:
    """`path`, or for `.mhd` the file of its folder that holds the voxels. Raises `DataError` (data_elsewhere).

    Of several ways to write a header, the ones that a reader could understand otherwise are refused, too.
    """
    try:
        with open_regular(path) as stream:
            header = stream.read(HEADER_BYTES)
    except OSError as error:
        raise DataError("unreadable", f"{path} cannot be read: {error.strerror}") from error
    if path.suffix.lower() != ".nrrd":
        return _of_meta(header, path)
    if _NRRD.search(header):
        raise _elsewhere(path, "names another file for its voxels, which is never followed")
    if len(header) == HEADER_BYTES and not re.search(rb"\n\r?\n", header):
        raise _elsewhere(path, f"has a header of more than {HEADER_BYTES:,} bytes")
    return path


def _of_meta(header: bytes, path: Path) -> Path:
    found = _META.search(header)
    before = header.lower() if found is None else header[: found.start()].lower()
    if b"elementdatafile" in before or (found is None and len(header) == HEADER_BYTES):
        raise _elsewhere(path, "does not say clearly where its voxels lie")
    name = "LOCAL" if found is None else found[1].decode("utf-8", "replace")
    if name.upper() == "LOCAL":
        return path
    beside = path.with_name(name) if re.fullmatch(r"[\w. -]+", name) and name not in (".", "..") else None
    if path.suffix.lower() != ".mhd" or beside is None or name.upper().startswith("LIST") or beside.is_symlink():
        raise _elsewhere(path, f"takes its voxels from {name[:80]!r}; only a plain file beside an .mhd is read")
    return beside


def _elsewhere(path: Path, problem: str) -> DataError:
    return DataError("data_elsewhere", f"{path} {problem}; convert it to .nii.gz")
