"""The comparison for the terminal."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from medcalib.plain import one_line
from medcalib.report.comparison.verdicts import RULE, main_column, row_name
from medcalib.report.text import number, table

MAX_MISSING = 20


def comparison_text(results: Mapping[str, Any]) -> str:
    """The table of all rows of `results` (see `write_comparison`), what is missing, and what the numbers say."""
    columns = _shown(results)
    rows = []
    for row in results["rows"]:
        done = f"{len(row['seeds_done'])} of {len(row['seeds_expected'])}"
        rows.append([row_name(row), done, *(_cell(row["values"][c["key"]], c["digits"]) for c in columns)])
    header = ["method", "seeds", *(c["label"] for c in columns)]
    test = results["test"]
    lines = [f"{test['n_cases']} cases of {test['n_patients']} patients, split {results['plan']['split']}", ""]
    lines += [table(rows, header), ""]
    if columns:
        lines += ["value sd over seeds [95 % interval over patients]; other columns: table.csv", ""]
    lines += [*results["verdicts"], *([RULE] if results["verdicts"] else [])]
    lines += _missing(results)
    return "\n".join(lines).rstrip()


def _shown(results: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """Dice, HD95, and the ECE of all and of the main region: what fits a terminal."""
    wanted = ("dice", "hd95_mm", "ece/all", main_column(dict(results)), "classwise_ece/all")
    return [column for column in results["columns"] if column["key"] in wanted]


def _cell(entry: Mapping[str, Any], digits: int) -> str:
    if entry["value"] is None:
        return "n/a"
    sd = "" if entry["sd"] is None else f" \N{PLUS-MINUS SIGN}{number(entry['sd'], digits)}"
    limits = "" if entry["low"] is None else f" [{number(entry['low'], digits)}, {number(entry['high'], digits)}]"
    return f"{number(entry['value'], digits)}{sd}{limits}"


def _missing(results: Mapping[str, Any]) -> list[str]:
    missing = results["missing"]
    lines = [_why(m) for m in missing[:MAX_MISSING]]
    more = len(missing) - len(lines)
    return ["", *lines, *([f"and {more} more: see cells.csv"] if more else [])] if lines else []


def _why(entry: Mapping[str, Any]) -> str:
    why = "; ".join(str(entry["why"]).splitlines())
    return one_line(f"{entry['state']}: {row_name(dict(entry))}, seed {entry['seed']}: {why}")
