"""What the numbers say, as sentences; each claim by one rule, stated once."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from medcalib.report.paired import CLEAR, out_of_reach, plain, told

Numbers = dict[str, Any]
RULE = (
    f"A row is called higher or lower than the reference only where {CLEAR}; otherwise these patients and seeds leave "
    "it open, which is no proof of equality."
)
MAIN = ("ece/pred_foreground", "ece/foreground", "ece/all", "ece/gt_foreground", "ece/boundary", "classwise_ece/all")


def main_column(results: Numbers) -> str | None:
    """The calibration column that sentences speak of, as in the report of one method."""
    known = {column["key"] for column in results["columns"]}
    return next((key for key in MAIN if key in known), None)


def row_name(row: Sequence[str] | Numbers) -> str:
    """`mbls`, `mbls + temperature`."""
    method, calibrator = (row["method"], row["calibrator"]) if isinstance(row, dict) else row
    return str(method) if calibrator == "none" else f"{method} + {calibrator}"


def verdicts(results: Numbers) -> list[str]:
    """Sentences on the best rows, then one a row against the plan's reference."""
    main = main_column(results)
    labels = {column["key"]: column for column in results["columns"]}
    if main is None:
        return []
    said = [_best(results, labels[key]) for key in (main, "dice") if key in labels]
    reference = results["references"][0]
    shown = [labels[key] for key in (main, "dice") if key in labels]
    tested = [sum(row["differences"][c["key"]]["p"] is not None for row in reference["rows"]) for c in shown]
    said += (
        [text] if (text := out_of_reach(results["test"]["n_patients"], min(filter(None, tested), default=1))) else []
    )
    for row in reference["rows"]:
        parts = [_part(row, column, k == 0, reference["method"]) for k, column in enumerate(shown)]
        if any(row["differences"][column["key"]]["difference"] is not None for column in shown):
            said.append(f"{'; '.join(parts)}.")
    return said


def _best(results: Numbers, column: Numbers) -> str:
    sign = -1 if column["better"] == "lower" else 1
    known = [row for row in results["rows"] if row["values"][column["key"]]["value"] is not None]
    if not known:
        return f"No row has a value of {column['label']}."
    first = max(known, key=lambda row: sign * row["values"][column["key"]]["value"])
    entry = first["values"][column["key"]]
    word = "Lowest" if sign < 0 else "Highest"
    interval = "" if entry["low"] is None else f" [{plain(entry['low'])}, {plain(entry['high'])}]"
    seeds = f"{entry['n_seeds']} seed{'s' if entry['n_seeds'] != 1 else ''}"
    return f"{word} {column['label']}: {row_name(first)} with {plain(entry['value'])}{interval} ({seeds})."


def _part(row: Numbers, column: Numbers, named: bool, reference: str) -> str:
    subject = f"{column['label']}: {row_name(row)}" if named else column["label"]
    return f"{subject} {told(row['differences'][column['key']], reference if named else '')}"
