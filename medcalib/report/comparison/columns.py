"""The columns of the table: which numbers, how they are added up over cases, and which way is better."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from medcalib.metrics.definitions import DEFINITIONS
from medcalib.metrics.over_seeds import Kind

Numbers = dict[str, Any]
REGIONS = ("all", "pred_foreground", "foreground", "gt_foreground", "boundary")
POOLED = "pooled over the voxels of all cases"
MEAN = "mean over cases"


@dataclass(frozen=True)
class Column:
    """A number of the table. `region` is empty for numbers of whole cases; `kind` as in `metrics.over_seeds`."""

    key: str
    label: str
    kind: Kind
    measure: str
    region: str = ""
    classwise: bool = False
    higher_is_better: bool = False
    digits: int = 4

    @property
    def aggregation(self) -> str:
        """How cases make one number."""
        return MEAN if self.kind == "mean" else POOLED

    @property
    def definition(self) -> str:
        """What the number is, in words."""
        text = _DEFINITIONS.get(self.key) or DEFINITIONS[self.measure]
        return f"{text}; {self.aggregation}{f', region {self.region}' if self.region else ''}"

    def facts(self) -> Numbers:
        """What `results.json` says of the column."""
        return {
            "key": self.key,
            "label": self.label,
            "better": "higher" if self.higher_is_better else "lower",
            "region": self.region or None,
            "aggregation": self.aggregation,
            "definition": self.definition,
            "digits": self.digits,
        }

    def of_case(self, case: Numbers, classes: Sequence[str]) -> float:
        """The number of one case of `scores.json`; NaN where it is undefined. Composites do not count."""
        if not self.region:
            return mean_known([case.get(self.measure, {}).get(name) for name in classes[1:]])
        found = case["regions"].get(self.region, {})
        if self.classwise:
            return mean_known([found.get("classwise_ece", {}).get(name) for name in classes])
        value = found.get(self.measure)
        return math.nan if value is None else float(value)


_FOREGROUND = "mean over the foreground classes that have a value in the case"
_DEFINITIONS = {
    "dice": f"Dice, {_FOREGROUND}",
    "hd95_mm": f"95th percentile of the surface distance in mm, {_FOREGROUND}; undefined where either mask is empty",
    "classwise_ece/all": "mean over the classes, background included, of the ECE of the probability of the class",
}
COLUMNS = (
    Column("dice", "Dice", "mean", "dice", higher_is_better=True),
    Column("hd95_mm", "HD95 mm", "mean", "hd95_mm", digits=2),
    *(Column(f"ece/{name}", f"ECE {name}", "ece", "ece", name) for name in REGIONS),
    Column("classwise_ece/all", "classwise ECE all", "ece", "classwise_ece", "all", classwise=True),
    *(Column(f"ace_bins/{name}", f"ACE {name}", "ace", "ace_bins", name) for name in ("all", "foreground")),
    Column("brier/all", "Brier all", "mean", "brier", "all"),
    Column("nll/all", "NLL all", "mean", "nll", "all"),
)


def mean_known(values: Sequence[float | None]) -> float:
    """Mean of the values that are there, NaN of none."""
    known = [float(value) for value in values if value is not None]
    return sum(known) / len(known) if known else math.nan
