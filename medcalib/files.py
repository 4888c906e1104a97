"""Writing files so that a reader never sees half of one, and names that cannot leave their folder."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import re
import secrets
import stat
import tempfile
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from io import BufferedReader
from pathlib import Path
from typing import Any, BinaryIO

from medcalib.errors import ConfigError, DataError

CASE_ID = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9._-]{0,126}[A-Za-z0-9_-])?\Z")
DISK_FULL = (errno.ENOSPC, errno.EDQUOT)
_RESERVED = re.compile(r"(?:con|prn|aux|nul|com[0-9]|lpt[0-9])(?:\..*)?\Z", re.IGNORECASE)


@contextmanager
def atomic(path: Path) -> Iterator[Path]:
    """A temporary path beside `path`, moved over it when the block ends without an error.

    The suffix of `path` is kept, since writers choose a format by it. Replacing a symbolic link replaces
    the link; its target is never written. A disk that is full is an `OSError` with the name of `path`.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".tmp-{secrets.token_hex(6)}-{path.name}")
    try:
        yield temporary
        with temporary.open("rb+") as written:
            os.fsync(written.fileno())
        temporary.replace(path)
    except OSError as error:
        if error.errno in DISK_FULL and error.filename is None:  # a write names no file
            error.filename = str(path)
        raise
    finally:
        temporary.unlink(missing_ok=True)


def make_folder(path: Path) -> None:
    """Make a folder and those above it. `ConfigError` where a file has its name, `OSError` where it cannot be made."""
    try:
        path.mkdir(parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError) as error:
        raise ConfigError(f"{path} cannot be a folder: it, or one above it, is a file; choose another name") from error


def remove_abandoned(folder: Path, older_than_s: float = 3600.0) -> None:
    """Remove temporary files of `atomic` that a killed process left; younger ones may be another's, at work."""
    for path in folder.glob(".tmp-[0-9a-f]*-*"):
        with suppress(OSError):
            if time.time() - path.lstat().st_mtime > older_than_s:
                path.unlink()


def require_writable(path: Path) -> None:
    """Fail now, not after the work, where no file `path` can be written. Makes the parent folder.

    Raises `OSError`, and `ConfigError` where a file is in the way.
    """
    if path.is_dir():
        raise IsADirectoryError(errno.EISDIR, "is a folder; name a file in it", str(path))
    make_folder(path.parent)
    with tempfile.TemporaryFile(dir=path.parent):
        pass


def open_regular(path: Path) -> BufferedReader:
    """Open a file for reading. OSError for a pipe, which would wait forever, and a device, which may never end."""
    mode = path.stat().st_mode
    if not stat.S_ISREG(mode) and not stat.S_ISDIR(mode):
        raise OSError(errno.EINVAL, "it is no regular file", str(path))
    return path.open("rb")


def write_text(path: Path, text: str) -> None:
    """Write UTF-8 text atomically, whatever the locale; bytes of file names that are no UTF-8 become `\\udcXX`."""
    with atomic(path) as temporary:
        temporary.write_text(text, encoding="utf-8", errors="backslashreplace", newline="\n")


def appending(path: Path) -> BinaryIO:
    """Open a file unbuffered, to add bytes to its end. A symbolic link is not followed: `OSError`."""

    def opened(name: str, flags: int) -> int:
        return os.open(name, flags | getattr(os, "O_NOFOLLOW", 0), 0o666)

    return open(path, "ab", buffering=0, opener=opened)


def refuse_links_out(folder: Path) -> None:
    """`ConfigError` when a folder within `folder`, at any depth, is a symbolic link that leads out of it.

    `folder` itself may be a link, and links to files need no care: `atomic` replaces them.
    """
    root = Path(os.path.realpath(folder))
    for parent, folders, _ in os.walk(root):
        for name in folders:
            path = Path(parent, name)
            if path.is_symlink() and not Path(os.path.realpath(path)).is_relative_to(root):
                raise ConfigError(f"{path} is a link that leads out of {folder}; remove it, or choose another --out")


def same_place(a: Path, b: Path) -> bool:
    """Whether two paths lead to one place, by links too; a circle of links is no error."""
    return os.path.realpath(a) == os.path.realpath(b)


def write_json(path: Path, value: Any) -> None:
    """Write JSON atomically. NaN is refused: absent numbers are `null`."""
    write_text(path, json.dumps(value, indent=1, ensure_ascii=False, allow_nan=False) + "\n")


def read_json(path: Path) -> Any:
    """Read a JSON file; `DataError` names the file when it is missing or broken."""
    try:
        with open_regular(path) as stream:
            return json.loads(stream.read().decode("utf-8"))
    except FileNotFoundError:
        raise DataError("missing_file", f"{path} does not exist") from None
    except (ValueError, OSError, RecursionError) as error:
        raise DataError("broken_json", f"{path} is no readable JSON file: {_fault(error)}") from error


def _fault(error: Exception) -> str:
    """What is wrong with a JSON file, and where."""
    if isinstance(error, json.JSONDecodeError):
        before, after = error.doc[: error.pos].rstrip(), error.doc[error.pos :].lstrip()
        comma = before.endswith(",") and after[:1] in ("]", "}")
        reason = f"a comma before {after[0]}; delete it" if comma else error.msg if before or after else "it is empty"
        return f"line {error.lineno}, column {error.colno}: {reason}"
    if isinstance(error, UnicodeDecodeError):
        return "it is no UTF-8 text"
    if isinstance(error, RecursionError):
        return "its lists and mappings are nested too deeply"
    return (error.strerror or str(error)) if isinstance(error, OSError) else str(error)


def require_folder(path: Path, what: str, option: str) -> None:
    """`DataError` (missing_folder) unless `path` is a folder; `what` it ought to hold, named by `option`."""
    if not path.is_dir():
        came = "it is a file" if path.exists() else "it does not exist"
        raise DataError("missing_folder", f"{path} is no folder of {what}: {came}; correct {option}")


def sha256(path: Path) -> str:
    """Hexadecimal SHA-256 of a file's bytes."""
    with open_regular(path) as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def check_case_id(case_id: str) -> str:
    """Return `case_id` if it is safe as a file name on every system, else raise `DataError`.

    Allowed: 1 to 128 ASCII letters, digits, '.', '_' and '-', starting with a letter or digit, not ending
    with a dot, and no name that Windows reserves.
    """
    if not CASE_ID.match(case_id) or _RESERVED.match(case_id):
        raise DataError(
            "unsafe_case_id",
            f"case id {case_id[:140]!r} cannot be a file name; use 1 to 128 ASCII letters, digits, '.', '_' or "
            "'-', starting with a letter or digit",
        )
    return case_id


def twins(case_ids: Iterable[str]) -> dict[str, str]:
    """Ids that differ in letter case alone from one before them, and that one: some systems make them one file."""
    first: dict[str, str] = {}
    found = {}
    for case_id in case_ids:
        other = first.setdefault(case_id.casefold(), case_id)
        if other != case_id:
            found[case_id] = other
    return found
