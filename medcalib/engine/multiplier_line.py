"""Multipliers as a line of metrics.jsonl holds them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from torch import Tensor

from medcalib.losses import Objective

REGIONS = ("boundary", "interior")


def multipliers(objective: Objective, class_names: Sequence[str]) -> dict[str, Any]:
    """For each term that has them: `names`, and the present `lam` and `rho` in that order, to 6 digits.

    Names are those of classes, of regions, `boundary/CLASS` where there is one for both, or `all`. Empty for a loss
    without multipliers; cals_hr has no rho.
    """
    found = {}
    for name, term in objective.terms.items():
        holder = getattr(term, "multipliers", term)
        lam, rho = getattr(holder, "lam", None), getattr(holder, "rho", None)
        if isinstance(lam, Tensor):
            names = _names(getattr(term, "granularity", "class"), class_names)
            found[name] = {"names": names, "lam": _rounded(lam)} | ({"rho": _rounded(rho)} if rho is not None else {})
    return {"multipliers": found} if found else {}


def _names(granularity: str, class_names: Sequence[str]) -> list[str]:
    if granularity == "class_region":
        return [f"{region}/{name}" for region in REGIONS for name in class_names]
    return {"scalar": ["all"], "region": list(REGIONS)}.get(granularity, list(class_names))


def _rounded(values: Tensor) -> list[float | None]:
    return [float(f"{value:.6g}") if math.isfinite(value) else None for value in values.tolist()]
