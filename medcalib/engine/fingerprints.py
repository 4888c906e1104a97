"""Fingerprints of a run's data, so that a continued run is known to see what it began with."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Literal, NamedTuple

from medcalib.data.case import Case
from medcalib.files import sha256

Kind = Literal["content", "ends"]
CONTENT_UP_TO = 2 << 30  # bytes of a whole dataset: more would be minutes of reading
END = 1 << 20  # bytes at each end of a file where contents are too many
_THREADS = 8
_Fingerprint = dict[str, Any]
Prints = dict[str, dict[str, dict[str, _Fingerprint]]]  # split -> case -> `image 1`, ..., `label` -> fingerprint


class _Wanted(NamedTuple):
    split: str
    case: str
    what: str
    path: Path
    known: _Fingerprint | None


def fingerprints(
    split: Mapping[str, Sequence[Case]], kind: Kind | None = None, known: Prints | None = None
) -> tuple[Kind, Prints]:
    """`bytes`, `mtime_ns` and `sha256` of each image and label of each case.

    kind: `content` hashes whole files; `ends` the first and last MiB of each, and its size. None chooses: contents
    up to `CONTENT_UP_TO` bytes in all. A file whose size and time are those of `known` is not read again.
    """
    wanted = [
        _Wanted(name, case.id, what, path, ((known or {}).get(name, {}).get(case.id, {})).get(what))
        for name, cases in split.items()
        for case in cases
        for what, path in _files(case)
    ]
    if kind is None:
        kind = "content" if sum(entry.path.stat().st_size for entry in wanted) <= CONTENT_UP_TO else "ends"
    with ThreadPoolExecutor(_THREADS) as pool:  # hashing and reading let other threads run
        found = list(pool.map(lambda entry: _fingerprint(entry.path, kind, entry.known), wanted))
    prints: Prints = {name: {case.id: {} for case in cases} for name, cases in split.items()}
    for entry, value in zip(wanted, found, strict=True):
        prints[entry.split][entry.case][entry.what] = value
    return kind, prints


def changed(before: Prints, now: Prints) -> list[tuple[str, str]]:
    """(case, file) of every file of `now` that `before` knows otherwise, or not at all; a touched one is the same."""
    found = []
    for split, cases in now.items():
        for case, of in cases.items():
            old = before.get(split, {}).get(case, {})
            found += [(case, what) for what in sorted(of.keys() | old.keys()) if not _same(old.get(what), of.get(what))]
    return found


def _same(old: _Fingerprint | None, new: _Fingerprint | None) -> bool:
    return old is not None and new is not None and old["sha256"] == new["sha256"] and old["bytes"] == new["bytes"]


def _files(case: Case) -> list[tuple[str, Path]]:
    named = [(f"image {number}", path) for number, path in enumerate(case.images, 1)]
    return named if case.label is None else [*named, ("label", case.label)]


def _fingerprint(path: Path, kind: Kind, known: _Fingerprint | None) -> _Fingerprint:
    found = path.stat()
    print_ = {"bytes": found.st_size, "mtime_ns": found.st_mtime_ns}
    if known is not None and all(known[key] == value for key, value in print_.items()):
        return known
    return print_ | {"sha256": sha256(path) if kind == "content" else _ends(path, found.st_size)}


def _ends(path: Path, size: int) -> str:
    """SHA-256 of a file's first and last MiB; of all of it where these meet."""
    digest = hashlib.sha256()
    with path.open("rb") as stream:
        digest.update(stream.read(END))
        stream.seek(max(size - END, min(size, END)))
        digest.update(stream.read(END))
    return digest.hexdigest()
