"""What was to be run: `compare.json`, checked."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from medcalib.errors import DataError, in_words
from medcalib.files import read_json

Numbers = dict[str, Any]
VERSION = 1
NONE = "none"  # the calibrator of the network as it is
SECOND_REFERENCE = "dice_ce"
_LABEL = re.compile(r"(?!\.+\Z)[A-Za-z0-9._=-]{1,64}\Z")


@dataclass(frozen=True)
class Plan:
    """Methods by label with the options of their loss, seeds, and calibrators with `none` first."""

    methods: dict[str, Numbers]
    seeds: tuple[int, ...]
    calibrators: tuple[str, ...]
    sweeps: dict[str, tuple[str, ...]]
    split: str
    weights: str
    reference: str
    config: Numbers

    @property
    def references(self) -> list[str]:
        """The methods that all others are compared with."""
        second = [SECOND_REFERENCE] if SECOND_REFERENCE in self.methods else []
        return list(dict.fromkeys([self.reference, *second]))


def read_plan(out: Path) -> Plan:
    """Read `out/compare.json`. `DataError` says what is wrong with it."""
    path = out / "compare.json"
    if not path.exists():
        raise DataError("missing_file", f"{path} does not exist; name the --out of a `medcalib compare`")
    found = read_json(path)
    try:
        if found["version"] != VERSION:
            raise ValueError(f"version {found['version']!r}, this program reads {VERSION}")
        methods = {str(label): dict(options) for label, options in found["methods"].items()}
        sweeps = {str(name): tuple(labels) for name, labels in (found.get("sweeps") or {}).items()}
        calibrators = tuple(str(name) for name in found.get("calibrators") or [] if name != NONE)
        plan = Plan(
            methods,
            tuple(int(seed) for seed in found["seeds"]),
            (NONE, *dict.fromkeys(calibrators)),
            sweeps,
            str(found.get("split", "test")),
            str(found.get("weights", "best")),
            str(found.get("reference") or next(iter(methods))),
            dict(found.get("config") or {}),
        )
        _check(plan)
    except (KeyError, TypeError, ValueError, AttributeError, StopIteration) as error:
        raise DataError("broken_plan", f"{path} is no plan of `medcalib compare`: {in_words(error)}") from error
    return plan


def _check(plan: Plan) -> None:
    for name in (*plan.methods, *plan.calibrators):
        if not _LABEL.match(name):
            raise ValueError(f"{name!r} is no label: 1 to 64 letters, digits, '.', '_', '=' and '-'")
    if plan.reference not in plan.methods:
        raise ValueError(f"the reference {plan.reference!r} is none of {', '.join(plan.methods)}")
    for name, labels in plan.sweeps.items():
        unknown = [label for label in labels if label not in plan.methods]
        if unknown:
            raise ValueError(f"sweep {name!r} names {', '.join(unknown)}, which are no methods of the plan")
