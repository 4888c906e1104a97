"""Shards of a scoring run into the whole: exact, in any order, and any number of times."""

from __future__ import annotations

import hashlib
import logging
import os
import shutil
import zipfile
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from medcalib.engine.parts import SCORES, SOURCE, Part, Refusal, check_out, read_parts, write_part
from medcalib.errors import DataRefusedError, Problem
from medcalib.files import atomic, make_folder, same_place, sha256
from medcalib.metrics import CaseScores

__all__ = ["merge"]

log = logging.getLogger(__name__)


def merge(scores: Sequence[Path], out: Path) -> dict[str, Any]:
    """Merge scores folders, of shards or whole runs, into `out` (which may be one of them); returns `scores.json`.

    The result is, to the last byte, that of one run over all cases. A case that is given several times is counted
    once if its content is the same. Raises `DataRefusedError` with every problem at once, before anything is written:
    parts of different runs, a case with different content, missing shards.
    """
    parts = [
        part for folder in dict.fromkeys(Path(os.path.realpath(path)) for path in scores) for part in read_parts(folder)
    ]
    problems = list(_different(parts))
    if not problems:
        problems = [*_contradictions(parts), *_missing(parts)]
    if problems:
        raise DataRefusedError(problems)
    files = {case: _chosen(paths) for case, paths in _files(parts).items()}
    refused = {entry["case"]: entry for part in parts for entry in part.refused}
    check_out(out, (*files, *refused))
    make_folder(out)
    (out / SCORES).unlink(missing_ok=True)
    for case, source in files.items():
        _copy(source, out / f"{case}.npz")
    repeated = sum(len(part.ids) for part in parts) - len(files) - len(refused)
    if repeated:
        log.info("%d cases were given again with the same content, and counted once", repeated)
    expected = tuple(sorted({*files, *refused}))
    return write_part(Part(out, parts[0].source, parts[0].score, tuple(sorted(files)), (*refused.values(),), expected))


def _different(parts: Sequence[Part]) -> Iterator[Problem]:
    """Parts that are of another run than the first."""
    first = parts[0]
    for part in parts[1:]:
        unlike = [key for key in SOURCE if part.source[key] != first.source[key]]
        unlike += ["score"] if part.score != first.score else []
        if unlike:
            text = f"it is of another run than {first.file}: they differ in {', '.join(unlike)}"
            yield Problem(str(part.file), "different_runs", f"{text}; merge the shards of one run")


def _contradictions(parts: Sequence[Part]) -> Iterator[Problem]:
    """Cases of which several parts say different things, and those that do not fit the others."""
    refusals: dict[str, list[tuple[Part, Refusal]]] = defaultdict(list)
    for part in parts:
        for entry in part.refused:
            refusals[entry["case"]].append((part, entry))
    fix = "leave out the outdated folder, or score the case again"
    files = _files(parts)
    for case, said in refusals.items():
        if case in files or any(entry != said[0][1] for _, entry in said):
            where = ", ".join([*(str(part.file) for part, _ in said), *map(str, files.get(case, ()))])
            yield Problem(
                case,
                "conflict",
                f"refused in one place, scored or refused for another reason in another: {where}; {fix}",
            )
    shape = None
    for case, paths in files.items():
        loaded = [CaseScores.load(path) for path in paths]
        if len({_content(path) for path in paths} if len(paths) > 1 else ()) > 1:
            yield Problem(case, "conflict", f"different content in {' and '.join(map(str, paths))}; {fix}")
        first = loaded[0]
        found = (first.channels, first.num_classes, first.binary, dict(first.settings), tuple(first.regions))
        shape = shape or found
        if first.case_id != case or found != shape:
            text = (
                f"it holds case {first.case_id}"
                if first.case_id != case
                else "it has other classes, regions or settings"
            )
            yield Problem(str(paths[0]), "conflict", f"{text}; {fix}")


def _files(parts: Sequence[Part]) -> Mapping[str, list[Path]]:
    """The distinct files of each scored case, by id."""
    found: dict[str, dict[Path, None]] = defaultdict(dict)
    for part in parts:
        for case in part.cases:
            found[case][part.folder / f"{case}.npz"] = None
    return {case: list(found[case]) for case in sorted(found)}


def _missing(parts: Sequence[Part]) -> Iterator[Problem]:
    """The shards without which the expected cases are not complete."""
    known = set().union(*(part.ids for part in parts))
    lacking: dict[str, list[str]] = {}
    for part in parts:
        absent = [case for case in part.expected if case not in known]
        if absent and part.shard is not None:
            count = part.shard.count
            for case in absent:
                name = f"{part.expected.index(case) % count}/{count}"
                lacking.setdefault(name, []).append(case)
    for name, cases in sorted(lacking.items()):
        unique = list(dict.fromkeys(cases))
        shown = ", ".join(unique[:5]) + (f" and {len(unique) - 5} more" if len(unique) > 5 else "")
        yield Problem(f"shard {name}", "missing_shard", f"lacks {shown}; run `medcalib score ... --shard {name}`")


def _chosen(paths: Sequence[Path]) -> Path:
    """One of several files of the same content, whatever their order (zlib may differ between machines)."""
    return paths[0] if len(paths) == 1 else min(paths, key=lambda path: (sha256(path), str(path)))


def _content(path: Path) -> str:
    """SHA-256 of the arrays in a case file, whatever compressed them."""
    digest = hashlib.sha256()
    with zipfile.ZipFile(path) as packed:
        for name in sorted(packed.namelist()):
            digest.update(f"{name}\0{packed.getinfo(name).file_size}\0".encode())
            digest.update(packed.read(name))
    return digest.hexdigest()


def _copy(source: Path, target: Path) -> None:
    if same_place(source, target):
        return
    with atomic(target) as temporary:
        shutil.copyfile(source, temporary)
