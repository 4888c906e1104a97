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
_FIX = "convert it to .nii.gz"
_META = re.compile(rb"(?:\A|[\r\n])[ \t]*ElementDataFile[ \t]*=[ \t]*([^\r\n]*?)[ \t]*[\r\n]")
_NRRD = re.compile(rb"[\r\n][ \t]*data[ \t]*file[ \t]*:", re.IGNORECASE)


def refuse_elsewhere(path: Path) -> None:
    """Raise `DataError` (data_elsewhere) unless the voxels lie in `path`, or for `.mhd` in a file of its folder.

    Of several ways to write a header, the ones that a reader could understand otherwise are refused, too.
    """
    try:
        with open_regular(path) as stream:
            header = stream.read(HEADER_BYTES)
    except OSError as error:
        raise DataError("unreadable", f"{path} cannot be read: {error.strerror}") from error
    problem = _of_nrrd(header) if path.suffix.lower() == ".nrrd" else _of_meta(header, path)
    if problem:
        raise DataError("data_elsewhere", f"{path} {problem}; {_FIX}")


def _of_nrrd(header: bytes) -> str:
    if _NRRD.search(header):
        return "names another file for its voxels, which is never followed"
    if len(header) == HEADER_BYTES and not re.search(rb"\n\r?\n", header):
        return f"has a header of more than {HEADER_BYTES:,} bytes"
    return ""


def _of_meta(header: bytes, path: Path) -> str:
    found = _META.search(header)
    if found is None:
        return "" if b"elementdatafile" not in header.lower() and len(header) < HEADER_BYTES else _UNCLEAR
    if b"elementdatafile" in header[: found.start()].lower():
        return _UNCLEAR
    name = found[1].decode("utf-8", "replace")
    if name.upper() == "LOCAL":
        return ""
    beside = path.with_name(name) if re.fullmatch(r"[\w. -]+", name) and name not in (".", "..") else None
    if path.suffix.lower() != ".mhd" or beside is None or name.upper().startswith("LIST") or beside.is_symlink():
        return f"takes its voxels from {name[:80]!r}; only a plain file beside an .mhd is read"
    return ""


_UNCLEAR = "does not say clearly where its voxels lie"
