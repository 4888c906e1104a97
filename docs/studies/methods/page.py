"""Writes the tables of docs/results/methods.md and hearts.md from the CSV files beside them.

python3 docs/studies/methods/page.py [RUN]      RUN: what run.sh, mild.sh and acdc.sh wrote; the CSV files of
the studies that are there are taken over first
"""

from __future__ import annotations

import csv
import json
import re
import shutil
import sys
from pathlib import Path

RESULTS = Path(__file__).parents[2] / "results"
PAGES, NUMBERS = (RESULTS / "methods.md", RESULTS / "hearts.md"), RESULTS / "methods"
# prefix of the files of numbers: folder of the comparison
STUDIES = {"": "main", "acdc_": "acdc", "acdc_long_": "acdc_long", "mild_": "mild"}
TAKEN = {"search.csv": "search/cells.csv", "mild_search.csv": "mild_search/cells.csv"}
TAKEN |= {f"{study}{name}.csv": f"{STUDIES[study]}/{name}.csv" for study in STUDIES for name in ("cells", "table")}
COMPARED = {"Dice": "dice", "foreground": "ece/foreground", "pred_foreground": "ece/pred_foreground", "all": "ece/all"}
COLUMNS = {
    "Dice": "dice",
    "ECE all": "ece/all",
    "pred_foreground": "ece/pred_foreground",
    "foreground": "ece/foreground",
    "gt_foreground": "ece/gt_foreground",
    "boundary": "ece/boundary",
    "NLL": "nll/all",
}
WITH_INTERVAL = ("Dice", "pred_foreground", "foreground")

Row = dict[str, str]


def rows_of(name: str) -> list[Row]:
    """A CSV file of the results."""
    with (NUMBERS / name).open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def shown(value: str, signs: int = 4) -> str:
    """A number without its leading zero; absent is n/a."""
    return f"{float(value):.{signs}f}".removeprefix("0") if value else "n/a"


def search_table(study: str = "") -> list[list[str]]:
    """One row an option of the search, on the validation cases."""
    head, rows = ["method and options", *COLUMNS], rows_of(f"{study}search.csv")
    return [head, *([row["method"], *(shown(row[key]) for key in COLUMNS.values())] for row in rows)]


def main_table(calibrator: str, study: str = "") -> list[list[str]]:
    """One row a method, on the test cases, repaired or not."""
    rows = [row for row in rows_of(f"{study}table.csv") if row["calibrator"] == calibrator and row["seeds_done"] != "0"]
    shown_ = [name for name, key in COLUMNS.items() if key in rows[0]]
    head = ["method", "seeds", *shown_]
    return [head, *([row["method"], row["seeds_done"], *(_cell(row, name) for name in shown_)] for row in rows)]


def _cell(row: Row, name: str) -> str:
    key = COLUMNS[name]
    text = shown(row[key])
    if name not in WITH_INTERVAL or not row[f"{key} low"]:
        return text
    return f"{text} [{shown(row[f'{key} low'])}, {shown(row[f'{key} high'])}]"


def differences_table(reference: str, study: str = "") -> list[list[str]]:
    """One row a method as trained: what it has more than the reference, with interval and Holm's p."""
    rows = rows_of(f"{study}differences.csv")
    head = ["method", *(name for name, key in COMPARED.items() if any(row["column"] == key for row in rows))]
    found: dict[str, list[str]] = {}
    for row in rows:
        if row["reference"] == reference:
            limits = f"[{_signed(row['low'])}, {_signed(row['high'])}]"
            clear = float(row["low"]) * float(row["high"]) > 0 and row["p_holm"] and float(row["p_holm"]) < 0.05
            text = f"{_signed(row['difference'])} {limits}"
            found.setdefault(row["method"], [row["method"]]).append(f"**{text}**" if clear else text)
    return [head, *found.values()]


def _signed(value: str) -> str:
    return f"{float(value):+.4f}".replace("0.", ".", 1)


def write_differences(results: Path, study: str) -> None:
    """The paired differences of the networks as trained, from `results.json`."""
    references = json.loads(results.read_text("utf-8"))["references"]
    with (NUMBERS / f"{study}differences.csv").open("w", encoding="utf-8", newline="") as file:
        table = csv.writer(file)
        table.writerow(["reference", "method", "column", "difference", "low", "high", "p_holm", "n_seeds"])
        for reference in references:
            for row in reference["rows"]:
                if row["calibrator"] != "none" or row["differences"]["dice"]["difference"] is None:
                    continue
                for column in COMPARED.values():
                    found = row["differences"][column]
                    numbers = [found[key] for key in ("difference", "low", "high", "p_holm", "n_seeds")]
                    table.writerow([reference["method"], row["method"], column, *numbers])


TABLES = {
    "search": search_table,
    "against_ce": lambda: differences_table("ce"),
    "against_dice_ce": lambda: differences_table("dice_ce"),
    "plain": lambda: main_table("none"),
    "temperature": lambda: main_table("temperature"),
    "focal_temperature": lambda: main_table("focal_temperature"),
    "mild_search": lambda: search_table("mild_"),
    "mild_plain": lambda: main_table("none", "mild_"),
    "mild_against_ce": lambda: differences_table("ce", "mild_"),
    "mild_against_dice_ce": lambda: differences_table("dice_ce", "mild_"),
    "acdc_long_plain": lambda: main_table("none", "acdc_long_"),
    "acdc_long_temperature": lambda: main_table("temperature", "acdc_long_"),
    "acdc_long_against_ce": lambda: differences_table("ce", "acdc_long_"),
    "acdc_plain": lambda: main_table("none", "acdc_"),
    "acdc_temperature": lambda: main_table("temperature", "acdc_"),
    "acdc_against_ce": lambda: differences_table("ce", "acdc_"),
    "acdc_against_dice_ce": lambda: differences_table("dice_ce", "acdc_"),
}


def markdown(table: list[list[str]]) -> str:
    """A table of Markdown."""
    lines = ["| " + " | ".join(row) + " |" for row in table]
    return "\n".join([lines[0], "|---" * len(table[0]) + "|", *lines[1:]])


def page(text: str) -> str:
    """The page with its tables as the CSV files have them."""

    def filled(found: re.Match[str]) -> str:
        return f"<!-- table: {found[1]} -->\n{markdown(TABLES[found[1]]())}\n<!-- end -->"

    return re.sub(r"<!-- table: (\w+) -->\n.*?<!-- end -->", filled, text, flags=re.DOTALL)


def main() -> None:
    """Take over the numbers of a run, if one is named, and write the pages."""
    if len(sys.argv) > 1:
        run = Path(sys.argv[1])
        for name, source in TAKEN.items():
            if (run / source).exists():
                shutil.copyfile(run / source, NUMBERS / name)
        for study, folder in STUDIES.items():
            if (run / folder / "results.json").exists():
                write_differences(run / folder / "results.json", study)
    for path in PAGES:
        path.write_text(page(path.read_text("utf-8")), encoding="utf-8")


if __name__ == "__main__":
    main()
