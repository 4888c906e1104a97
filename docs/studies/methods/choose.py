"""The options of each method with the lowest ECE on the validation cases, as arguments of `medcalib compare`.

    python3 choose.py SEARCH [--lost-dice 0.005] [--suffix SUFFIX] [LABEL ...]

SEARCH is the folder that `medcalib compare --split val` wrote. The rule, for each method and each of two regions: the
lowest pooled ECE of the region among the options whose Dice is at most 0.005 (`--lost-dice`) below that of ce.
`<method>_pf` is chosen by the region of what is predicted (pred_foreground), `<method>_fg` by label or prediction
(foreground), where it is another one. Defaults are not repeated. With a suffix only the former, as `<method>_<suffix>`;
with labels only these.
"""

from __future__ import annotations

import argparse
import csv
import json
import sys
from collections import defaultdict
from pathlib import Path

LOST_DICE = 0.005
REGIONS = {"pf": "ece/pred_foreground", "fg": "ece/foreground"}


def choose(search: Path, lost_dice: float = LOST_DICE) -> dict[str, dict[str, object]]:
    """Label -> options of the loss."""
    methods = json.loads((search / "compare.json").read_text("utf-8"))["methods"]
    with (search / "cells.csv").open(encoding="utf-8", newline="") as file:
        rows = {row["method"]: row for row in csv.DictReader(file) if row["state"] == "done"}
    least = float(rows["ce"]["dice"]) - lost_dice
    families: defaultdict[str, list[str]] = defaultdict(list)
    for label, row in rows.items():
        if label != "ce" and float(row["dice"]) >= least:
            families[methods[label]["name"]].append(label)
    chosen: dict[str, dict[str, object]] = {}
    for name, labels in families.items():
        for suffix, column in REGIONS.items():
            best = min(labels, key=lambda label: float(rows[label][column]))
            if best != name and methods[best] not in chosen.values():
                chosen[f"{name}_{suffix}"] = methods[best]
    return chosen


def main() -> None:
    """Print one argument a line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("search", type=Path)
    parser.add_argument("labels", nargs="*")
    parser.add_argument("--lost-dice", type=float, default=LOST_DICE)
    parser.add_argument("--suffix")
    given = parser.parse_args()
    for label, options in choose(given.search, given.lost_dice).items():
        if given.suffix and not label.endswith("_pf"):
            continue
        if not given.labels or label in given.labels:
            named = f"{label.removesuffix('pf')}{given.suffix}" if given.suffix else label
            sys.stdout.write(f"--method\n{named}={json.dumps(options)}\n")


if __name__ == "__main__":
    main()
