"""One process works on a cell at a time, on one machine or on many that share the folder.

The lock is a file made with O_EXCL that names its owner and that the owner touches again and again. It is stale when
its owner, on this machine, is gone; or when a reader has seen it untouched for a while, which needs no clock that
machines agree on.
"""

from __future__ import annotations

import json
import os
import secrets
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

BEAT_S = 20.0
SILENT_S = 9 * BEAT_S  # a training step or a network file system may keep the beating thread waiting


class BusyError(Exception):
    """Another process has the lock."""


@contextmanager
def held(path: Path, stale: str | None = None) -> Iterator[None]:
    """Hold the lock within the block, or raise `BusyError`. `stale`: content of a lock known to be abandoned."""
    own = json.dumps({"host": _host(), "pid": os.getpid(), "token": secrets.token_hex(8)})
    _take(path, own, stale)
    done = threading.Event()
    threading.Thread(target=_beat, args=(path, own, done), daemon=True).start()
    try:
        yield
    finally:
        done.set()
        if read(path) == own:
            path.unlink(missing_ok=True)


def read(path: Path) -> str | None:
    """The content of a lock; None where there is none."""
    try:
        return path.read_text(encoding="utf-8")
    except OSError:
        return None


def owner(content: str) -> str:
    """Who holds a lock, for messages."""
    found = _parsed(content)
    return f"process {found.get('pid')} on {str(found.get('host')).partition(' ')[0]}"


def is_abandoned(content: str) -> bool:
    """Whether the owner was a process of this machine that is gone."""
    found = _parsed(content)
    if os.name != "posix" or found.get("host") != _host() or not isinstance(found.get("pid"), int):
        return False  # elsewhere signal 0 would end the process
    try:
        os.kill(found["pid"], 0)
    except ProcessLookupError:
        return True
    except OSError:
        return False
    return False


class Watch:
    """Locks of others that were seen, and since when nobody has touched them."""

    def __init__(self) -> None:
        self._seen: dict[Path, tuple[str, int, float]] = {}

    def stale(self, path: Path) -> str | None:
        """The content of a lock that may be taken over; None where it is held, or there is none."""
        content = read(path)
        if content is None:
            return None
        if is_abandoned(content):
            return content
        try:
            touched = path.stat().st_mtime_ns
        except OSError:
            return None
        before = self._seen.get(path)
        if before is None or before[:2] != (content, touched):
            self._seen[path] = (content, touched, time.monotonic())
            return None
        return content if time.monotonic() - before[2] > SILENT_S else None


def _take(path: Path, own: str, stale: str | None) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    found = read(path)
    if found is not None and (found == stale or is_abandoned(found)):
        _remove(path, found)
    try:
        handle = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o644)
    except FileExistsError:
        raise BusyError(f"{path} is held by {owner(read(path) or '')}") from None
    with os.fdopen(handle, "w", encoding="utf-8") as stream:
        stream.write(own)


def _remove(path: Path, stale: str) -> None:
    """Remove a stale lock, unless another has just done so: what was renamed may be that one's new lock."""
    aside = path.with_name(f"{path.name}.{secrets.token_hex(6)}")
    try:
        path.rename(aside)
    except OSError:
        return
    if read(aside) != stale:
        with suppress(OSError):
            os.link(aside, path)
    aside.unlink(missing_ok=True)


def _beat(path: Path, own: str, done: threading.Event) -> None:
    while not done.wait(BEAT_S):
        if read(path) not in (own, None):  # taken over after a long silence: two must not write one folder
            os._exit(1)
        with suppress(OSError):
            os.utime(path)


def _parsed(content: str) -> dict[str, Any]:
    try:
        found = json.loads(content)
    except ValueError:  # its owner is just writing it
        return {}
    return found if isinstance(found, dict) else {}


def _host() -> str:
    """This machine, and the space that its process numbers count in: a container has its own."""
    try:
        space = os.readlink("/proc/self/ns/pid")  # noqa: PTH115 - no path, a name
    except OSError:
        space = ""
    return f"{socket.gethostname()} {space}".strip()
