"""Which rows are not dominated in Dice and ECE together."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

Numbers = dict[str, Any]
FRONTS = ("ece/all", "ece/pred_foreground", "ece/foreground")


def pareto(rows: Sequence[Numbers]) -> dict[str, list[list[str]]]:
    """By column of ECE: [method, calibrator] of the rows on the front, from the highest Dice down."""
    found = {}
    for key in FRONTS:
        points = {(row["method"], row["calibrator"]): point for row in rows if (point := _point(row, key)) is not None}
        front = [name for name, p in points.items() if not any(_dominates(q, p) for q in points.values())]
        if points:
            found[key] = [list(name) for name in sorted(front, key=lambda name: (-points[name][0], points[name][1]))]
    return found


def _point(row: Numbers, key: str) -> tuple[float, float] | None:
    dice, ece = (row["values"].get(name, {}).get("value") for name in ("dice", key))
    return None if dice is None or ece is None else (dice, ece)


def _dominates(one: tuple[float, float], other: tuple[float, float]) -> bool:
    return one[0] >= other[0] and one[1] <= other[1] and one != other
