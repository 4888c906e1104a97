"""Run the study, or only redraw its page and figures from the numbers that are there."""

from __future__ import annotations

import argparse
from pathlib import Path

import torch

from estimators.page import write_page
from estimators.pictures import write_pictures
from estimators.study import FULL, read, study, write

RESULTS = Path(__file__).parents[2] / "results"


def main() -> None:
    """Write estimators.csv, estimators.md and figures/estimators_*.svg into the folder of results."""
    parser = argparse.ArgumentParser(prog="python -m estimators", description=__doc__)
    parser.add_argument("--out", type=Path, default=RESULTS)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--redraw", action="store_true", help="page and figures from the CSV file, without the study")
    arguments = parser.parse_args()
    numbers = arguments.out / "estimators.csv"
    if not arguments.redraw:
        torch.set_num_threads(1)
        write(study(FULL, arguments.seed), numbers)
    rows = read(numbers)
    write_page(rows, arguments.out / "estimators.md")
    write_pictures(rows, arguments.out / "figures")


if __name__ == "__main__":
    main()
