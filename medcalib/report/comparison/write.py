"""`write_comparison`: every file of the comparison."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from medcalib.files import write_json, write_text
from medcalib.report.comparison.csv_files import cells_csv, sweep_csv, sweep_file, table_csv
from medcalib.report.comparison.latex import table_tex
from medcalib.report.comparison.page import page_html
from medcalib.report.comparison.plan import read_plan
from medcalib.report.comparison.results import results_of
from medcalib.report.comparison.study import read_study


def write_comparison(out: Path) -> dict[str, Any]:
    """Write the tables and the page of the comparison in `out` from its cells; returns the content of results.json.

    Writes results.json, table.csv (a row a method and calibrator), cells.csv (a row a cell and calibrator), table.tex,
    sweep_<name>.csv of each sweep and index.html; the same cells give the same bytes. Cells that are missing, failed
    or unlike the others are listed and never averaged. `DataError` when compare.json is missing or broken.
    """
    results = results_of(read_study(out, read_plan(out)))
    write_json(out / "results.json", results)
    write_text(out / "table.csv", table_csv(results))
    write_text(out / "cells.csv", cells_csv(results))
    write_text(out / "table.tex", table_tex(results))
    for name in results["sweeps"]:
        write_text(out / sweep_file(name), sweep_csv(results, name))
    write_text(out / "index.html", page_html(results))
    return results
