"""The content of `results.json`: rows, differences from references, ranks, Pareto fronts, sweeps, cells."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medcalib import __version__
from medcalib.metrics.over_seeds import Contrast, Estimate, estimates, over_patients_of
from medcalib.metrics.paired import holm
from medcalib.report.comparison.columns import COLUMNS, Column
from medcalib.report.comparison.differences import pairs_of
from medcalib.report.comparison.fronts import pareto
from medcalib.report.comparison.plan import Plan
from medcalib.report.comparison.ranking import ranking
from medcalib.report.comparison.study import Entry, RowKey, Study
from medcalib.report.comparison.sweeps import sweep_values
from medcalib.report.comparison.verdicts import verdicts
from medcalib.report.paired import difference

Array = NDArray[np.float64]
Numbers = dict[str, Any]
PLACES = ("root", "cache_dir")  # keys of a config
VERSION = 1
EXPLANATION = {
    "value": "mean over the seeds whose number is defined, n_seeds of them",
    "sd": "standard deviation over seeds (n - 1); null for one seed: it describes training, not patients",
    "low, high": "95 % interval over patients: patients are resampled, the same for every seed, and the mean over "
    "seeds of the number is taken each time (BCa bootstrap, 2000 resamples; see ece_low in scores.json); null with "
    "fewer than 3 patients. It says nothing of seeds that were not run",
    "absent": "values of cases that are undefined, of all cases and seeds; they are left out of the mean",
    "difference": "row minus reference over the seeds that both have; low, high: its 95 % interval over the same "
    "resampled patients. Pooled columns: of the pooled number",
    "p": "Wilcoxon's signed-rank test, two-sided, over patients, on the values of single cases (mean over seeds; mean "
    "of a patient's cases), for pooled columns too: a case with an undefined value is left out there. p_holm: Holm's "
    "correction over all rows of the column against the same reference",
    "ranks": "Friedman's test and mean ranks over methods, 1 is best; blocks are patients, values as for p. "
    "critical_difference: Nemenyi's, at 0.05. over_columns: methods are ranked by the value of each column, blocks are "
    "columns, and ranks are averaged (columns are correlated, so no test goes with it)",
    "pareto": "rows of which no other row has a Dice as high and an ECE as low, one of them better; by values alone",
}


def results_of(study: Study) -> Numbers:
    """Everything that the tables and the page show, from numbers alone."""
    columns = [column for column in COLUMNS if study.models and _any(study, column)]
    index = {(e.method, e.calibrator, e.seed): k for k, e in enumerate(study.models)}
    per_column = {column.key: _column(study, column, index) for column in columns}
    rows = [_row(study, key, per_column) for key in study.row_keys]
    found: Numbers = {
        "version": VERSION,
        "software": f"medcalib {__version__}",
        "plan": _plan(study.plan),
        "test": _test(study),
        "columns": [column.facts() for column in columns],
        "explanation": EXPLANATION,
        "rows": rows,
        "references": _references(study, per_column),
        "ranks": {calibrator: ranking(study, calibrator, columns, per_column) for calibrator in study.plan.calibrators},
        "pareto": pareto(rows),
        "sweeps": sweep_values(study.plan),
        "cells": [_cell(entry, numbers) for entry, numbers in _with_values(study, columns)],
        "missing": _missing(study),
    }
    found["verdicts"] = verdicts(found)
    return found


def _any(study: Study, column: Column) -> bool:
    return bool(np.isfinite(study.tables(column).values()).any())


def _column(study: Study, column: Column, index: dict[tuple[str, str, int], int]) -> Numbers:
    """Estimates of every row and of every difference from a reference, bootstrapped together."""
    tables = study.tables(column)
    values = tables.values()
    case_values = study.case_values(column)
    models = {
        key: tuple(
            index[(*key, seed)]
            for seed in study.plan.seeds
            if (*key, seed) in index and math.isfinite(values[index[(*key, seed)]])
        )
        for key in study.row_keys
    }
    pairs = pairs_of(study, models)
    asked = [Contrast(models[key]) for key in study.row_keys] + [pair.contrast for pair in pairs]
    found = estimates(tables, asked)
    by_patient = over_patients_of(case_values.T, study.owners, len(study.patients)).T
    tested = [
        difference(pair.contrast, e, by_patient) for pair, e in zip(pairs, found[len(study.row_keys) :], strict=True)
    ]
    return {
        "values": values,
        "models": models,
        "by_patient": by_patient,
        "rows": {
            key: _value(estimate, values[list(models[key])], _absent(study, key, case_values))
            for key, estimate in zip(study.row_keys, found, strict=False)
        },
        "differences": {(pair.reference, pair.row): entry for pair, entry in zip(pairs, tested, strict=True)},
    }


def _value(estimate: Estimate, values: Array, absent: int) -> Numbers:
    """A number of the table; `values` are those of its seeds."""
    sd = float(values.std(ddof=1)) if len(values) > 1 else None
    return {**estimate._asdict(), "sd": sd, "n_seeds": len(values), "absent": absent}


def _absent(study: Study, key: RowKey, case_values: Array) -> int:
    mine = [k for k, entry in enumerate(study.models) if (entry.method, entry.calibrator) == key]
    return int(np.isnan(case_values[mine]).sum())


def _row(study: Study, key: RowKey, per_column: Numbers) -> Numbers:
    mine = [e for e in study.entries if (e.method, e.calibrator) == key]
    there = [e for e in mine if e.scored is not None]
    return {
        "method": key[0],
        "calibrator": key[1],
        "seeds_done": [e.seed for e in there],
        "seeds_expected": [e.seed for e in mine],
        "values": {name: column["rows"][key] for name, column in per_column.items()},
        "cost": _cost(key, there),
    }


def _cost(key: RowKey, there: Sequence[Entry]) -> Numbers:
    """Mean seconds over the seeds that tell them, and the largest peak of memory."""
    seconds = [entry.cell.get("seconds") or {} for entry in there]
    peaks = [p for entry in there if (p := entry.cell.get("peak_mib")) is not None]
    found = {name: _mean([s.get(name) for s in seconds]) for name in ("train", "predict", "score")}
    fits = [s.get(key[1]) or {} for s in seconds]
    found |= {"fit": _mean([f.get("fit") for f in fits]), "apply_and_score": _mean([_apply(f) for f in fits])}
    devices = sorted({str(e.cell["device"]) for e in there if e.cell.get("device")})
    return {**found, "peak_mib": max(map(float, peaks), default=None), "devices": devices}


def _apply(fit: Numbers) -> float | None:
    return fit.get("apply and score")


def _mean(values: Sequence[float | None]) -> float | None:
    known = [float(v) for v in values if v is not None]
    return sum(known) / len(known) if known else None


def _references(study: Study, per_column: Numbers) -> list[Numbers]:
    found = []
    for reference in study.plan.references:
        keys = [key for key in study.row_keys if key != (reference, "none")]
        by_row: dict[RowKey, Numbers] = {key: {} for key in keys}
        for name, column in per_column.items():
            entries = {key: column["differences"][reference, key] for key in keys}
            corrected = holm({"\0".join(key): entry["p"] for key, entry in entries.items()})
            for key, entry in entries.items():
                by_row[key][name] = {**entry, "p_holm": corrected["\0".join(key)]}
        rows = [{"method": k[0], "calibrator": k[1], "differences": by_row[k]} for k in keys]
        found.append({"method": reference, "calibrator": "none", "rows": rows})
    return found


def _plan(plan: Plan) -> Numbers:
    return {
        "config": _without_places(plan.config),
        "methods": plan.methods,
        "seeds": list(plan.seeds),
        "calibrators": list(plan.calibrators),
        "split": plan.split,
        "weights": plan.weights,
        "reference": plan.reference,
        "references": plan.references,
    }


def _without_places(config: Numbers) -> Numbers:
    """Results travel; where data and caches lie on one machine does not."""
    return {
        name: {key: value for key, value in part.items() if key not in PLACES} if isinstance(part, dict) else part
        for name, part in config.items()
    }


def _test(study: Study) -> Numbers:
    """On what all rows were scored, and with which versions."""
    scored = [entry.scored for entry in study.models if entry.scored is not None]
    facts = scored[0].facts if scored else {}
    kept = {key: facts.get(key) for key in ("dataset", "bins", "edges", "classes", "regions")}
    return {
        **kept,
        "cases": list(study.cases),
        "n_cases": len(study.cases),
        "n_patients": len(study.patients),
        "n_expected": facts.get("n_expected"),
        "refused": facts.get("refused") or [],
        "software": sorted({str(s.facts["software"]) for s in scored if s.facts.get("software")}),
        "devices": sorted({str(e.cell["device"]) for e in study.models if e.cell.get("device")}),
    }


def _with_values(study: Study, columns: Sequence[Column]) -> list[tuple[Entry, Numbers]]:
    """Every entry with its own numbers by column; null where it does not count."""
    every = {column.key: study.tables(column).values() for column in columns}
    found, k = [], 0
    for entry in study.entries:
        numbers: Numbers = dict.fromkeys(every)
        if entry.scored is not None:
            numbers = {key: _finite(values[k]) for key, values in every.items()}
            k += 1
        found.append((entry, numbers))
    return found


def _cell(entry: Entry, numbers: Numbers) -> Numbers:
    return {
        "method": entry.method,
        "seed": entry.seed,
        "calibrator": entry.calibrator,
        "state": entry.state,
        "why": entry.why,
        "device": entry.cell.get("device"),
        "weights_epoch": entry.cell.get("weights_epoch"),
        "seconds": entry.cell.get("seconds") or {},
        "peak_mib": entry.cell.get("peak_mib"),
        "values": numbers,
    }


def _finite(value: float) -> float | None:
    return float(value) if math.isfinite(value) else None


def _missing(study: Study) -> list[Numbers]:
    return [
        {"method": e.method, "seed": e.seed, "calibrator": e.calibrator, "state": e.state, "why": e.why}
        for e in study.entries
        if e.scored is None
    ]
