"""All cells of a comparison: what is there, what is missing, and why a cell stands in no table."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medcalib.errors import DataError
from medcalib.files import read_json
from medcalib.metrics.over_seeds import Tables
from medcalib.report.comparison.columns import COLUMNS, Column
from medcalib.report.comparison.plan import Plan
from medcalib.report.comparison.scored import Scored, read_scored

Array = NDArray[np.float64]
Numbers = dict[str, Any]
RowKey = tuple[str, str]


@dataclass(frozen=True)
class Entry:
    """One method with one seed and one calibrator. `scored` is None where it stands in no table; `why` says why."""

    method: str
    seed: int
    calibrator: str
    state: str
    why: str | None
    cell: Numbers
    scored: Scored | None


@dataclass(frozen=True)
class Study:
    """The entries, in the order of the plan, and the cases and patients that all that count were scored on."""

    plan: Plan
    entries: tuple[Entry, ...]
    cases: tuple[str, ...]
    owners: tuple[int, ...]
    patients: tuple[str, ...]

    @property
    def models(self) -> list[Entry]:
        """The entries that count, in order: their index is that of a model in `Tables`."""
        return [entry for entry in self.entries if entry.scored is not None]

    @property
    def row_keys(self) -> list[RowKey]:
        """Every row of the table, whether anything of it is there or not."""
        return [(method, calibrator) for method in self.plan.methods for calibrator in self.plan.calibrators]

    def tables(self, column: Column) -> Tables:
        """The column's sums over patients of every model that counts."""
        built = [self._model_tables(entry.scored, column) for entry in self.models if entry.scored is not None]
        return Tables(column.kind, np.stack([sums for sums, _ in built]), np.stack([counts for _, counts in built]))

    def case_values(self, column: Column) -> Array:
        """The column's value of every case (models, N), NaN where it is absent."""
        at = COLUMNS.index(column)
        return np.stack([entry.scored.values[:, at] for entry in self.models if entry.scored is not None])

    def _model_tables(self, scored: Scored, column: Column) -> tuple[Array, Array]:
        if column.kind == "mean":
            value = scored.values[:, COLUMNS.index(column)]
            known = np.isfinite(value)
            parts = np.where(known, value, 0.0)[:, None, None], known.astype(float)[:, None, None]
        elif column.region not in scored.gaps:
            parts = np.zeros((len(self.cases), 1, 1)), np.zeros((len(self.cases), 1, 1))
        else:
            channels = slice(1, None) if column.classwise else slice(0, 1)
            parts = scored.gaps[column.region][:, channels], scored.voxels[column.region][:, channels]
        sums, counts = (np.zeros((len(self.patients), *part.shape[1:])) for part in parts)
        np.add.at(sums, list(self.owners), parts[0])
        np.add.at(counts, list(self.owners), parts[1])
        return sums, counts


def read_study(out: Path, plan: Plan) -> Study:
    """Read every cell of the plan; nothing in a cell stops the others."""
    entries = [entry for method in plan.methods for seed in plan.seeds for entry in _read_cell(out, plan, method, seed)]
    standard = _standard(entries)
    kept = tuple(_checked(entry, standard) for entry in entries)
    if standard is None:
        return Study(plan, kept, (), (), ())
    patients = tuple(sorted(set(standard.patients)))
    owners = tuple(patients.index(patient) for patient in standard.patients)
    return Study(plan, kept, standard.cases, owners, patients)


def _read_cell(out: Path, plan: Plan, method: str, seed: int) -> list[Entry]:
    folder = out / "cells" / method / f"seed{seed}"
    try:
        path = folder / "cell.json"
        cell: Numbers = read_json(path) if path.exists() else {"state": "missing"}
        state, places = str(cell["state"]), dict(cell.get("scores") or {})
    except (DataError, KeyError, TypeError, ValueError, AttributeError) as error:
        cell, state, places = {"state": "failed", "error": f"cell.json is damaged: {error}"}, "failed", {}
    return [_read_entry(folder, cell, (method, seed, name), state, places.get(name)) for name in plan.calibrators]


def _read_entry(folder: Path, cell: Numbers, key: tuple[str, int, str], state: str, place: Any) -> Entry:
    if state == "running" or place is None:
        return Entry(*key, "missing" if state == "done" else state, _reason(cell, state), cell, None)
    try:
        if not isinstance(place, str) or Path(place).name != place:
            raise DataError("unsafe_folder", f"cell.json names {place!r}, which is no folder of the cell")
        return Entry(*key, "done", None, cell, read_scored(folder / place))
    except DataError as error:
        return Entry(*key, "failed", str(error).replace(f"{folder}/", ""), cell, None)


def _reason(cell: Numbers, state: str) -> str:
    told = {"missing": "was not run", "running": "is running, or was interrupted", "done": "was not scored"}
    return str(cell.get("error") or told.get(state, "failed without a message"))


def _standard(entries: list[Entry]) -> Scored | None:
    """A model that was scored as most were: on the same cases with the same settings; of equally many, more cases."""
    known = [entry.scored for entry in entries if entry.scored is not None]
    if not known:
        return None
    count = Counter((scored.settings, scored.cases, scored.patients) for scored in known)
    return max(known, key=lambda s: (count[s.settings, s.cases, s.patients], len(s.cases)))


def _checked(entry: Entry, standard: Scored | None) -> Entry:
    """The entry, without its scores where they cannot stand beside the others."""
    scored = entry.scored
    if scored is None or standard is None:
        return entry
    if scored.settings != standard.settings:
        why = "was scored with other settings (bins, regions or classes) than the others"
    elif scored.cases != standard.cases:
        lacks, more = sorted({*standard.cases} - {*scored.cases}), sorted({*scored.cases} - {*standard.cases})
        named = [f"lacks {', '.join(lacks[:5])}"] * bool(lacks) + [f"has {', '.join(more[:5])}"] * bool(more)
        why = f"scored {len(scored.cases)} cases, the others {len(standard.cases)}: it {' and '.join(named)}"
    elif scored.patients != standard.patients:
        why = "gives its cases to other patients than the others"
    else:
        return entry
    return Entry(entry.method, entry.seed, entry.calibrator, "left out", why, entry.cell, None)
