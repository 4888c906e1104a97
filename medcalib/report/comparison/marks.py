"""Best and second value of a column."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

Numbers = dict[str, Any]


def places(rows: Sequence[Numbers], column: Numbers) -> dict[int, int]:
    """Index of row -> 1 (best) or 2 (second), by the printed value: rows that print alike share a place.

    A row that lacks seeds is not placed: its mean is not over what the others' is.
    """
    sign = 1 if column["better"] == "higher" else -1
    printed = {
        k: sign * round(value, column["digits"])
        for k, row in enumerate(rows)
        if (value := row["values"][column["key"]]["value"]) is not None
        and row["values"][column["key"]]["n_seeds"] == len(row["seeds_expected"])
    }
    levels = sorted(set(printed.values()), reverse=True)[:2]
    return {k: levels.index(value) + 1 for k, value in printed.items() if value in levels}
