"""The table for a paper: booktabs, best value bold, second underlined, intervals below."""

from __future__ import annotations

from typing import Any

from medcalib.report.comparison.marks import places
from medcalib.report.comparison.verdicts import row_name

Numbers = dict[str, Any]
_SPECIAL = {
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    **{c: f"\\{c}" for c in "&%$#_{}"},
}
_HEAD = (
    r"% To compile alone: \documentclass{standalone}\usepackage{booktabs}\begin{document}\input{table}\end{document}",
    r"% In a paper: \usepackage{booktabs}, then \input{table} inside a table, wide ones in \resizebox.",
)


def table_tex(results: Numbers) -> str:
    """A `tabular` of every row: value, standard deviation over seeds, and the 95 % interval over patients below."""
    columns = results["columns"]
    test = results["test"]
    lines = [
        *_HEAD,
        f"% {test['n_cases']} cases of {test['n_patients']} patients; mean over seeds, deviation over seeds;",
        "% brackets: 95 % interval over patients. Bold: best value, underlined: second; no test is meant by it.",
        rf"\begin{{tabular}}{{lr{'r' * len(columns)}}}",
        r"\toprule",
        " & ".join(["Method", "Seeds", *(_head(column) for column in columns)]) + r" \\",
        r"\midrule",
    ]
    marks = {column["key"]: places(results["rows"], column) for column in columns}
    for k, row in enumerate(results["rows"]):
        seeds = f"{len(row['seeds_done'])}/{len(row['seeds_expected'])}"
        cells = [_value(row["values"][c["key"]], c["digits"], marks[c["key"]].get(k)) for c in columns]
        below = [_interval(row["values"][c["key"]], c["digits"]) for c in columns]
        lines.append(" & ".join([escaped(row_name(row)), seeds, *cells]) + r" \\")
        if any(below):
            lines.append(" & ".join(["", "", *below]) + r" \\")
    return "\n".join([*lines, r"\bottomrule", r"\end{tabular}", ""])


def escaped(text: str) -> str:
    """Text that LaTeX prints as it is."""
    return "".join(_SPECIAL.get(c, c if c.isprintable() else "?") for c in text)


def _head(column: Numbers) -> str:
    arrow = r"$\uparrow$" if column["better"] == "higher" else r"$\downarrow$"
    return f"{escaped(column['label'])} {arrow}"


def _value(entry: Numbers, digits: int, place: int | None) -> str:
    if entry["value"] is None:
        return "--"
    text = f"{entry['value']:.{digits}f}"
    marked = {1: rf"\textbf{{{text}}}", 2: rf"\underline{{{text}}}"}.get(place or 0, text)
    return marked if entry["sd"] is None else rf"{marked} {{\scriptsize$\pm${entry['sd']:.{digits}f}}}"


def _interval(entry: Numbers, digits: int) -> str:
    if entry["value"] is None or entry["low"] is None:
        return ""
    return rf"{{\scriptsize[{entry['low']:.{digits}f}, {entry['high']:.{digits}f}]}}"
