"""Facts as plain text for the terminal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any


def table(rows: Sequence[Sequence[str]], header: Sequence[str]) -> str:
    """Columns aligned by spaces; numbers to the right."""
    every = [list(header), *[list(row) for row in rows]]
    widths = [max(len(row[i]) for row in every) for i in range(len(header))]
    numeric = [all(_is_number(row[i]) for row in rows) and bool(rows) for i in range(len(header))]

    def line(row: Sequence[str]) -> str:
        cells = (c.rjust(w) if n else c.ljust(w) for c, w, n in zip(row, widths, numeric, strict=True))
        return "  ".join(cells).rstrip()

    return "\n".join([line(every[0]), "  ".join("-" * w for w in widths), *map(line, every[1:])])


def score_text(scores: Mapping[str, Any]) -> str:
    """The tables that `medcalib score` prints: Dice and HD95 by class, calibration by region."""
    lines = [f"scored {scores['n_scored']} of {scores['n_expected']} cases"]
    lines += [f"refused {r['case']}: {r['message']} [{r['reason']}]" for r in scores["refused"]]
    if not scores["n_scored"]:
        return "\n".join(lines)
    mean, pooled = scores["mean"], scores["pooled"]
    rows = [[n, interval(v), interval(mean["hd95_mm"].get(n), 2), str(v["n"])] for n, v in mean["dice"].items()]
    lines += ["", table(rows, ["class", "Dice", "HD95 mm", "cases"])]
    rows = []
    for region, p in pooled.items():
        rows.append(
            [
                region,
                interval({"value": p["ece"], "low": p["ece_low"], "high": p["ece_high"]}),
                interval(mean[region]["ece"]),
                number(p.get("ece_true")),
                number(p["gap"], sign=True),
                number(p["brier"]),
                number(p["nll"]),
                f"{p['voxels']:,}",
            ]
        )
    header = ["region", "ECE pooled", "ECE mean over cases", "true ECE", "gap", "Brier", "NLL", "voxels"]
    lines += ["", table(rows, header)]
    settings = scores["settings"]
    lines += [
        "",
        f"{settings['bins']} equal bins, edges {settings['edges']}; brackets: 95 % bootstrap over 3 or more patients;",
        "gap: confidence minus accuracy, above 0 is overconfident",
    ]
    return "\n".join(lines)


def interval(entry: Mapping[str, Any] | None, digits: int = 4) -> str:
    """`value [low, high]`, n/a where there is none."""
    if entry is None or entry["value"] is None:
        return "n/a"
    value = number(entry["value"], digits)
    if entry["low"] is None:
        return value
    return f"{value} [{number(entry['low'], digits)}, {number(entry['high'], digits)}]"


def number(value: float | None, digits: int = 4, *, sign: bool = False) -> str:
    """A number in fixed digits, `n/a` for null."""
    return "n/a" if value is None else f"{value:{'+' if sign else ''}.{digits}f}"


def facts_text(facts: Mapping[str, Any], indent: str = "") -> str:
    """Nested facts, one a line."""
    lines = []
    for key, value in facts.items():
        name = key.replace("_", " ")
        if isinstance(value, Mapping):
            lines += [f"{indent}{name}:", facts_text(value, indent + "  ")]
        elif isinstance(value, (list, tuple)):
            lines.append(f"{indent}{name}: {', '.join(map(_short, value)) or 'none'}")
        else:
            lines.append(f"{indent}{name}: {_short(value)}")
    return "\n".join(line for line in lines if line)


def _short(value: Any) -> str:
    return f"{value:.5g}" if isinstance(value, float) else str(value)


def _is_number(text: str) -> bool:
    return text == "n/a" or text.lstrip("+-").replace(",", "").replace(".", "", 1).isdecimal()
