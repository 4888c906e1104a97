"""Facts as plain text for the terminal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from medcalib.metrics.intervals import MIN_PATIENTS
from medcalib.plain import one_line

__all__ = ["score_text", "table"]


def table(rows: Sequence[Sequence[str]], header: Sequence[str]) -> str:
    """`rows` of cells below their `header`: columns aligned by spaces, numbers to the right."""
    every = [[one_line(cell) for cell in row] for row in (header, *rows)]
    widths = [max(len(row[i]) for row in every) for i in range(len(header))]
    numeric = [all(_is_number(row[i]) for row in rows) and bool(rows) for i in range(len(header))]

    def line(row: Sequence[str]) -> str:
        cells = (c.rjust(w) if n else c.ljust(w) for c, w, n in zip(row, widths, numeric, strict=True))
        return "  ".join(cells).rstrip()

    return "\n".join([line(every[0]), "  ".join("-" * w for w in widths), *map(line, every[1:])])


def score_text(scores: Mapping[str, Any]) -> str:
    """The tables that `medcalib score` prints: structures, regions, published protocols; and what needs a look."""
    lines = [f"scored {scores['n_scored']} of {scores['n_expected']} cases"]
    lines += [refusal_line(entry) for entry in scores["refused"]]
    lines += _warnings(scores["cases"])
    if not scores["n_scored"]:
        return "\n".join(lines)
    lines += ["", _structures(scores["mean"]), "", _regions(scores), *_protocols(scores.get("protocols", {}))]
    return "\n".join([*lines, "", *_notes(scores)])


def _notes(scores: Mapping[str, Any]) -> list[str]:
    """What the columns are."""
    settings = scores["settings"]
    independent = ["independent regions have no top label, so neither ECE nor gap;"]
    return [
        f"{settings['bins']} equal bins, edges {settings['edges']}; {_brackets(scores['cases'])};",
        "volume errors: of the segmentation, and of the expected volume (sum of probabilities), minus the reference;",
        "CECE: mean of the classwise ECE, background included; gap: confidence minus accuracy, overconfident above 0;",
        *(independent if settings.get("independent_channels") else []),
        "the other scores, and definitions: scores.json",
    ]


def _brackets(cases: Mapping[str, Any]) -> str:
    """Over what the intervals are."""
    patients = len({case["patient_id"] for case in cases.values()})
    if patients < MIN_PATIENTS:
        return f"no intervals: {patients} patient{'s' * (patients > 1)}, {MIN_PATIENTS} are needed"
    if patients < len(cases):
        return f"brackets: 95 % bootstrap over {patients} patients"
    told = "each taken as a patient of its own (a --config says which belong together)"
    return f"brackets: 95 % bootstrap over {patients} cases, {told}"


def refusal_line(entry: Mapping[str, str]) -> str:
    """A refused case, its reason and what to do."""
    return one_line(f"refused {entry['case']}: {entry['message']} [{entry['reason']}]")


def _warnings(cases: Mapping[str, Any]) -> list[str]:
    """One line a warning, however many cases it concerns."""
    told: dict[str, list[str]] = {}
    for case, numbers in cases.items():
        for warning in numbers.get("warnings", ()):
            told.setdefault(warning, []).append(case)
    return [
        one_line(f"warning {', '.join(names[:3])}{f' and {len(names) - 3} more' if len(names) > 3 else ''}: {warning}")
        for warning, names in told.items()
    ]


def _structures(mean: Mapping[str, Any]) -> str:
    rows = []
    for name, dice in mean["dice"].items():
        volume = mean.get("volume_ml", {}).get(name, {})
        shown = "mean of classes" if name == "foreground" and name not in mean["hd95_mm"] else name
        row = [shown, interval(dice), interval(mean["hd95_mm"].get(name), 2)]
        row += [interval(mean.get("surface_dice", {}).get(name))]
        row += [number((volume.get(key) or {}).get("value"), 2, sign=True) for key in ("error", "expected_error")]
        rows.append([*row, str(dice["n"])])
    header = ["class", "Dice", "HD95 mm", "surface Dice", "volume error ml", "expected-volume error ml", "cases"]
    return table(rows, header)


def _regions(scores: Mapping[str, Any]) -> str:
    mean = scores["mean"]
    columns: dict[str, list[str]] = {}
    rows = []
    for region, p in scores["pooled"].items():
        columns = {
            "ECE pooled": [interval({"value": p["ece"], "low": p["ece_low"], "high": p["ece_high"]})],
            "ECE mean over cases": [interval(mean[region]["ece"])],
            "true ECE": [number(p.get("ece_true"))] if any("ece_true" in q for q in scores["pooled"].values()) else [],
            "CECE": [number(_mean_of(p["classwise_ece"], scores))],
            "gap": [number(p["gap"], sign=True)],
            "Brier": [number(_brier(p, scores))],
            "NLL": [number(p["nll"])],
            "AURC": [number(p.get("aurc"), 6)],
            "voxels": [f"{p['voxels']:,}"],
        }
        rows.append([region, *(cell for cells in columns.values() for cell in cells)])
    return table(rows, ["region", *(name for name, cells in columns.items() if cells)])


def _mean_of(values: Mapping[str, float | None], scores: Mapping[str, Any]) -> float | None:
    """Mean over the classes (composites apart) that have a value."""
    known = [v for name, v in values.items() if name in scores["settings"]["classes"] and v is not None]
    return sum(known) / len(known) if known else None


def _brier(pooled: Mapping[str, Any], scores: Mapping[str, Any]) -> float | None:
    value: float | None = pooled["brier"]
    if value is None and scores["settings"].get("independent_channels"):
        return _mean_of(pooled["classwise_brier"], scores)
    return value


def _protocols(protocols: Mapping[str, Any]) -> list[str]:
    """One line a protocol: its numbers over all classes (those of each class are in scores.json)."""
    lines = []
    for name, found in protocols.items():
        shown = [f"{key} {number(value)}" for key, value in found["mean"].items() if "/" not in key]
        lines.append(f"protocol {name}: {', '.join(shown) or 'n/a'}")
    return ["", *lines] if lines else []


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
        name = one_line(key.replace("_", " "))
        if isinstance(value, Mapping):
            lines += [f"{indent}{name}:", facts_text(value, indent + "  ")]
        elif isinstance(value, (list, tuple)):
            lines.append(f"{indent}{name}: {', '.join(map(_short, value)) or 'none'}")
        else:
            lines.append(f"{indent}{name}: {_short(value)}")
    return "\n".join(line for line in lines if line)


def _short(value: Any) -> str:
    return f"{value:.5g}" if isinstance(value, float) else one_line(str(value))


def _is_number(text: str) -> bool:
    return text == "n/a" or text.lstrip("+-").replace(",", "").replace(".", "", 1).isdecimal()
