"""What the numbers say, as sentences; each claim by one rule, stated once."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

Numbers = dict[str, Any]
ALPHA = 0.05
CERTAIN_PATIENTS = 6  # with fewer, Wilcoxon's two-sided p cannot fall below 0.05
RULE = (
    "A row is called higher or lower than the reference only where the 95 % interval of the paired difference leaves "
    "out 0 and Holm's p is below 0.05; otherwise these patients and seeds leave it open, which is no proof of equality."
)
MAIN = ("ece/pred_foreground", "ece/foreground", "ece/all", "ece/gt_foreground", "ece/boundary", "classwise_ece/all")


def main_column(results: Numbers) -> str | None:
    """The calibration column that sentences speak of, as in the report of one method."""
    known = {column["key"] for column in results["columns"]}
    return next((key for key in MAIN if key in known), None)


def judged(entry: Numbers) -> str:
    """`higher`, `lower`, `open`, `equal` in every case, or `unknown` where there is no difference."""
    if entry["difference"] is None:
        return "unknown"
    if entry["difference"] == 0 and entry["p"] is None:
        return "equal"
    low, high, p = entry["low"], entry["high"], entry["p_holm"]
    if low is None or p is None or p >= ALPHA or low <= 0 <= high:
        return "open"
    return "higher" if entry["difference"] > 0 else "lower"


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
    patients = results["test"]["n_patients"]
    if patients < CERTAIN_PATIENTS:
        said.append(f"With {patients} patients no test can reach p < {ALPHA:g}: every difference is left open.")
    reference = results["references"][0]
    shown = [labels[key] for key in (main, "dice") if key in labels]
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
    interval = "" if entry["low"] is None else f" [{_plain(entry['low'])}, {_plain(entry['high'])}]"
    seeds = f"{entry['n_seeds']} seed{'s' if entry['n_seeds'] != 1 else ''}"
    return f"{word} {column['label']}: {row_name(first)} with {_plain(entry['value'])}{interval} ({seeds})."


def _part(row: Numbers, column: Numbers, named: bool, reference: str) -> str:
    entry = row["differences"][column["key"]]
    verdict = judged(entry)
    subject = f"{column['label']}: {row_name(row)} " if named else f"{column['label']} "
    if verdict == "unknown":
        return f"{subject}unknown"
    if verdict == "equal":
        return f"{subject}{f'equal to {reference}' if named else 'equal'}"
    against = f" than {reference}" if named else ""
    interval = ""
    if verdict in ("higher", "lower"):
        low, high = sorted((abs(entry["low"]), abs(entry["high"])))
        interval = f" [{_plain(low)}, {_plain(high)}]"
        return f"{subject}{verdict}{against} by {_plain(abs(entry['difference']))}{interval}{_p(entry)}"
    if entry["low"] is not None:
        interval = f" [{_signed(entry['low'])}, {_signed(entry['high'])}]"
    against = f" from {reference}" if named else ""
    return f"{subject}not shown to differ{against} ({_signed(entry['difference'])}{interval}{_p(entry, ', ')})"


def _p(entry: Numbers, before: str = ", ") -> str:
    return "" if entry["p_holm"] is None else f"{before}p_holm {p_text(entry['p_holm'])}"


def p_text(value: float | None) -> str:
    """A p value in three digits; tiny ones as a bound."""
    if value is None:
        return "n/a"
    return "< 0.001" if value < 0.001 else f"{value:.3f}"


def _plain(value: float) -> str:
    return f"{value:.4f}"


def _signed(value: float) -> str:
    return f"{value:+.4f}".replace("-", "\N{MINUS SIGN}")
