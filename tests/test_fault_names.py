"""Markup, formulas, line breaks and escape sequences in names stay text: in terminals, logs, CSV, LaTeX and pages."""

from __future__ import annotations

import csv
import io
import json
import logging
from pathlib import Path

import pytest
from flat import LPS, smooth_case
from typer.testing import CliRunner

from medcalib.cli import app
from medcalib.data.case import Case
from medcalib.data.labels import LabelMap
from medcalib.data.nifti import write_volume
from medcalib.data.predictions import write_prediction
from medcalib.plain import PlainFormatter, one_line, printable
from medcalib.report.comparison.csv_files import _text
from medcalib.report.comparison.latex import escaped
from medcalib.report.run_page import RunPage

SCRIPT = "<script>alert(1)</script>{{7*7}}"
EVIL = (SCRIPT, "a\nrefused case_9: forged [x]", "b,c;d", "=cmd()|' /C calc'!A0", "+1", "@x", "\t=1", "\x1b[2Jgone")
FORMULA = tuple("=+-@\t\r\n")


@pytest.mark.fault(72)
def test_no_cell_of_a_table_is_a_formula_and_none_is_lost() -> None:
    text = _text([*EVIL], [[*EVIL], [-1.5] * len(EVIL)])
    header, row, numbers = csv.reader(io.StringIO(text, newline=""))
    for cells in (header, row):
        assert not [cell for cell in cells if cell.startswith(FORMULA)]
        assert [cell.removeprefix("'") for cell in cells] == [*EVIL]
    assert set(numbers) == {"-1.5"}  # a number stays one


@pytest.mark.fault(72)
def test_latex_prints_special_characters() -> None:
    assert escaped(r"50%_\$&#{}~^") == (r"50\%\_\textbackslash{}\$\&\#\{\}\textasciitilde{}\textasciicircum{}")
    assert escaped("a\nb\x1b") == "a?b?"


@pytest.mark.fault(72)
def test_a_log_line_cannot_be_forged() -> None:
    stream = io.StringIO()
    handler = logging.StreamHandler(stream)
    handler.setFormatter(PlainFormatter())
    log = logging.getLogger("forged")
    log.addHandler(handler)
    try:
        log.warning("refused %s: %s (%d)\n  second line of the program's own", EVIL[1], ValueError(EVIL[-1]), 3)
    finally:
        log.removeHandler(handler)
    assert stream.getvalue() == (
        "refused a\\nrefused case_9: forged [x]: \\x1b[2Jgone (3)\n  second line of the program's own\n"
    )


def test_text_that_prints_is_left_alone() -> None:
    assert one_line("Größe 10 µm") == printable("Größe 10 µm") == "Größe 10 µm"
    assert (one_line("a\nb\t"), printable("a\nb\t\x07")) == ("a\\nb\\t", "a\nb\t\\x07")


@pytest.mark.fault(72)
def test_class_names_and_ids_from_files_stay_in_their_line(tmp_path: Path) -> None:
    probs, label = smooth_case(0, 1 + len(EVIL), (8, 8, 4))
    printing = [name if name.isprintable() else f"class {k}" for k, name in enumerate(EVIL)]
    for name, classes in (("good", printing), ("bad", printing), ("unprintable", EVIL)):
        labels = LabelMap.consecutive(("background", *classes))
        write_volume(tmp_path / "labels" / f"{name}.nii.gz", label.numpy(), LPS)
        write_prediction(tmp_path / "predictions", Case(name, name, ()), probs.numpy(), LPS, labels, {})
    (tmp_path / "predictions" / "bad.nii.gz").rename(tmp_path / "predictions" / "x\nrefused y: forged [z].nii.gz")
    pair = ["--predictions", str(tmp_path / "predictions"), "--labels", str(tmp_path / "labels")]
    found = CliRunner().invoke(app, ["score", *pair, "--out", str(tmp_path / "scores")])
    assert found.exit_code == 4, found.output
    lines = found.output.splitlines()
    assert "\x1b" not in found.output
    assert not [line for line in lines if line.startswith(("refused case_9", "refused y"))]
    stored = json.loads((tmp_path / "scores" / "scores.json").read_text(encoding="utf-8"))
    assert list(stored["cases"]["good"]["dice"]) == printing  # the file keeps the names as they are
    assert [line for line in lines if line.startswith("refused unprintable: ") and "printable name" in line]


@pytest.mark.fault(72)
def test_the_page_of_a_run_takes_names_as_text(tmp_path: Path) -> None:
    pytest.importorskip("jinja2")
    page = RunPage(tmp_path)
    page.start({"name": SCRIPT, "train": {"epochs": 2}}, {})
    page.log({"epoch": 1, "loss": 1.0, "multipliers": {SCRIPT: {"names": [*EVIL], "lam": [1.0] * len(EVIL)}}}, 1)
    text = (tmp_path / "progress.html").read_text(encoding="utf-8")
    assert "<script" not in text
    assert "{{7*7}}" in text
    assert "&lt;script&gt;alert(1)" in text
