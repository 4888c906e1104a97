"""The files of a maps folder: their names, and the removal of what an earlier run left."""

from __future__ import annotations

import gzip
import zlib
from collections.abc import Iterable, Iterator, Set
from pathlib import Path
from typing import Any

from medcalib.errors import DataError
from medcalib.files import CASE_ID, make_folder, read_json, remove_abandoned
from medcalib.report.maps.kinds import CHANNEL_KINDS, KINDS, MARK

INDEX = "maps.json"
COHORT = ("cohort_gap", "cohort_error", "cohort_count")
_SUFFIX = ".nii.gz"
_ENDS = {name.split("_")[-1] for name in (*KINDS, *CHANNEL_KINDS, *COHORT)}
_DESCRIPTION = slice(148, 228)  # of a NIfTI-1 header


def map_file(case_id: str, name: str) -> str:
    """The file name of a map of a case."""
    return f"{case_id}_{name}{_SUFFIX}"


def cohort_file(name: str) -> str:
    """The file name of a map of the cohort."""
    return f"{name}{_SUFFIX}"


class Taken:
    """Which case each file belongs to: `a` with a class `b` and a case `a_b` can want the same one."""

    def __init__(self) -> None:
        self._owners = {cohort_file(name): "the cohort" for name in COHORT}

    def claim(self, case_id: str, names: Iterable[str]) -> dict[str, str]:
        """Map name -> file of a case. Raises `DataError` (map_name_taken) where another one has it."""
        files = {name: map_file(case_id, name) for name in names}
        for file in files.values():
            owner = self._owners.setdefault(file, case_id)
            if owner != case_id:
                raise DataError(
                    "map_name_taken", f"{case_id}: its map {file} would be that of {owner}; rename one, or map it alone"
                )
        return files


def prepare(out: Path, cases: Iterable[str]) -> None:
    """Make `out`, and remove the maps of an earlier run, finished or not: a map that is not made anew may not stand
    beside an index that does not describe it. Files of others are left alone."""
    make_folder(out)
    remove_abandoned(out)
    own = [out / name for name in _listed(out / INDEX)]
    known = {*cases, "cohort"}
    own += [path for path in out.glob(f"*{_SUFFIX}") if _named_so(path.name, known) and _is_map(path)]
    for path in own:
        path.unlink(missing_ok=True)
    (out / INDEX).unlink(missing_ok=True)


def _listed(index: Path) -> Iterator[str]:
    """File names that an index claims as its own; nothing outside the folder, and nothing but maps."""
    try:
        found: Any = read_json(index)
        cases, written, cohort = found.get("cases", []), found.get("written", {}), found.get("cohort") or {}
        names = [map_file(str(case), kind) for case in cases for kind in KINDS]
        names += [str(name) for entry in (*written.values(), cohort) for name in entry.get("files", {}).values()]
    except (DataError, AttributeError, TypeError):
        return
    yield from (name for name in names if CASE_ID.match(name) and name.endswith(_SUFFIX))


def _named_so(name: str, cases: Set[str]) -> bool:
    """Whether a file is named like a map of one of these cases."""
    parts = name.removesuffix(_SUFFIX).split("_")
    return parts[-1] in _ENDS and any("_".join(parts[:k]) in cases for k in range(1, len(parts)))


def _is_map(path: Path) -> bool:
    """Whether the header says that `write_maps` wrote it."""
    try:
        with gzip.open(path) as stream:
            return stream.read(_DESCRIPTION.stop)[_DESCRIPTION].startswith(MARK.encode())
    except (OSError, EOFError, zlib.error):
        return False
