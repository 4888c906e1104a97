"""The tables as CSV: full precision, empty where absent."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterable, Sequence
from typing import Any

from medcalib.report.comparison.sweeps import as_number

Numbers = dict[str, Any]
_PARTS = ("value", "sd", "low", "high", "n_seeds", "absent")
_COST = ("train", "predict", "score", "fit", "apply_and_score")


def table_csv(results: Numbers) -> str:
    """One row a method and calibrator: of each column the value and its parts, then the mean cost in seconds."""
    keys = [column["key"] for column in results["columns"]]
    header = ["method", "calibrator", "seeds_done", "seeds_expected"]
    header += [_name(key, part) for key in keys for part in _PARTS]
    header += [f"{name}_seconds" for name in _COST] + ["peak_mib"]
    rows = []
    for row in results["rows"]:
        values = [row["values"][key][part] for key in keys for part in _PARTS]
        counts = [len(row["seeds_done"]), len(row["seeds_expected"])]
        cost = [row["cost"][name] for name in (*_COST, "peak_mib")]
        rows.append([row["method"], row["calibrator"], *counts, *values, *cost])
    return _text(header, rows)


def cells_csv(results: Numbers) -> str:
    """One row a method, seed and calibrator: its state and its own numbers, without intervals."""
    keys = [column["key"] for column in results["columns"]]
    header = ["method", "seed", "calibrator", "state", "why", "device", "weights_epoch", *keys]
    header += ["train_seconds", "fit_seconds", "peak_mib"]
    rows = []
    for cell in results["cells"]:
        head = [cell[key] for key in header[:7]]
        seconds = cell["seconds"]
        fit = (seconds.get(cell["calibrator"]) or {}).get("fit")
        rows.append([*head, *(cell["values"][k] for k in keys), seconds.get("train"), fit, cell["peak_mib"]])
    return _text(header, rows)


def sweep_csv(results: Numbers, name: str) -> str:
    """One row a value and calibrator of one sweep."""
    keys = [column["key"] for column in results["columns"]]
    values = {entry["label"]: entry["value"] for entry in results["sweeps"][name]}
    by_label = {(row["method"], row["calibrator"]): row for row in results["rows"]}
    rows = []
    for label, value in values.items():
        for calibrator in results["plan"]["calibrators"]:
            row = by_label[label, calibrator]
            found = [row["values"][key][part] for key in keys for part in _PARTS]
            number = as_number(value)
            rows.append([value if number is None else number, label, calibrator, len(row["seeds_done"]), *found])
    header = [name, "method", "calibrator", "seeds_done", *(_name(key, part) for key in keys for part in _PARTS)]
    return _text(header, rows)


def sweep_file(name: str) -> str:
    """The file of a sweep; what could leave the folder becomes `_`."""
    return f"sweep_{re.sub(r'[^A-Za-z0-9._=-]', '_', name)[:100]}.csv"


def _name(key: str, part: str) -> str:
    return key if part == "value" else f"{key} {part}"


def _text(header: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow([_inert(cell) for cell in header])
    writer.writerows([_inert(cell) for cell in row] for row in rows)
    return stream.getvalue()


def _inert(cell: Any) -> Any:
    """Text that no spreadsheet takes for a formula."""
    return f"'{cell}" if isinstance(cell, str) and cell[:1] in "=+-@\t\r\n" and cell else cell
