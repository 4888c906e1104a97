"""A line of metrics.jsonl as numbers by name, which is all that a tracker gets."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def numbers(line: Mapping[str, Any]) -> dict[str, float]:
    """Every number of a line but its epoch: `loss`, `parts/NAME`, `multipliers/TERM/lam/NAME`.

    Text and `null` are left out. Lists are those of multipliers, whose `names` stand beside them.
    """
    found: dict[str, float] = {}
    for name, value in line.items():
        if name != "epoch":
            _add(found, name, value)
    return found


def _add(found: dict[str, float], name: str, value: Any) -> None:
    if isinstance(value, Mapping):
        names = value.get("names", ())
        for key, inner in value.items():
            if isinstance(inner, list) and key != "names":
                for of, number in zip(names, inner, strict=True):
                    _add(found, f"{name}/{key}/{of}", number)
            else:
                _add(found, f"{name}/{key}", inner)
    elif isinstance(value, int | float) and not isinstance(value, bool):
        found[name] = value


def flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested mappings as one, with keys such as `train.lr`."""
    found: dict[str, Any] = {}
    for key, value in values.items():
        if isinstance(value, Mapping):
            found |= flat(value, f"{prefix}{key}.")
        else:
            found[f"{prefix}{key}"] = value
    return found
