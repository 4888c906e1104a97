"""The options of each method with the lowest ECE on the validation cases, as arguments of `medcalib compare`.

    python3 choose.py SEARCH [LABEL ...]     the folder that `medcalib compare --split val` wrote; only these labels

The rule, for each method and each of two regions: the lowest pooled ECE of the region among the options whose Dice is
at most 0.005 below that of ce. `<method>_pf` is chosen by the region of what is predicted (pred_foreground),
`<method>_fg` by label or prediction (foreground), where it is another one. Defaults are not repeated.
"""

from __future__ import annotations

import csv
import json
import sys
from collections import defaultdict
from pathlib import Path

LOST_DICE = 0.005
REGIONS = {"pf": "ece/pred_foreground", "fg": "ece/foreground"}


def choose(search: Path) -> dict[str, dict[str, object]]:
    """Label -> options of the loss."""
    methods = json.loads((search / "compare.json").read_text("utf-8"))["methods"]
    with (search / "cells.csv").open(encoding="utf-8", newline="") as file:
        rows = {row["method"]: row for row in csv.DictReader(file) if row["state"] == "done"}
    least = float(rows["ce"]["dice"]) - LOST_DICE
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
    wanted = sys.argv[2:]
    for label, options in choose(Path(sys.argv[1])).items():
        if not wanted or label in wanted:
            sys.stdout.write(f"--method\n{label}={json.dumps(options)}\n")


if __name__ == "__main__":
    main()
