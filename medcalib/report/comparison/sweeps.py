"""Sweeps of an option: which value each method of it has."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from medcalib.report.comparison.plan import Plan

Numbers = dict[str, Any]


def sweep_values(plan: Plan) -> dict[str, list[Numbers]]:
    """By sweep ("mbls.margin"): label and value of each method, in the order of the plan. Values may be no numbers."""
    return {
        name: [{"label": label, "value": _value(plan.methods[label], name, label)} for label in labels]
        for name, labels in plan.sweeps.items()
    }


def _value(options: Numbers, name: str, label: str) -> Any:
    """The option that the sweep's name says after the first dot; where it is not there, the label's own word."""
    found: Any = options
    for part in name.split(".")[1:]:
        found = found.get(part) if isinstance(found, Mapping) else None
    if found is not None and not isinstance(found, Mapping):
        return found
    text = label.rpartition("=")[2]
    try:
        return float(text)
    except ValueError:
        return text


def as_number(value: Any) -> float | None:
    """The value as a coordinate, None where it is no number."""
    return float(value) if isinstance(value, (int, float)) and not isinstance(value, bool) else None
