"""What the report calls clear is paired over patients, by the numbers and the rule of `compare`'s page."""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path

import pytest
from comparison_cells import case_of, write_cell, write_plan, write_scores

from medcalib.files import read_json

pytest.importorskip("matplotlib")
from medcalib.report.comparison.plan import read_plan
from medcalib.report.comparison.results import results_of
from medcalib.report.comparison.study import read_study
from medcalib.report.content import Method, read_methods
from medcalib.report.rows import overlap_rows, pooled_ece
from medcalib.report.side_by_side import RULE, comparison, legend, paired, tables

MAIN = "pred_foreground"
CASE = cache(case_of)


def methods(root: Path, looks: dict[str, float], *, cases: int = 12, noise: float = 0.2) -> list[Method]:
    """Methods of several sharpness on the same cases, two a patient."""
    for name, sharpness in looks.items():
        write_scores(root / name, [CASE(0, k, sharpness, noise) for k in range(cases)])
    return read_methods([root / name for name in looks])


def bold(found: list[Method]) -> dict[str, list[bool]]:
    """By label of the row, which cells of the main region or of the overlap are set in bold."""
    groups = [(name, list(rows)) for name, rows in tables(found)]
    wanted = [rows for name, rows in groups if name.startswith(("Overlap", f"Region {MAIN}"))]
    return {row.label: [cell.best for cell in row.cells] for rows in wanted for row in rows}


def test_differences_are_those_of_compare(tmp_path: Path) -> None:
    write_plan(tmp_path, {"ce": {}, "soft": {}}, [0])
    folders = [
        write_cell(tmp_path, name, 0, {"none": look}) / "scores"
        for name, look in (("ce", (2.0, 0.4)), ("soft", (1.2, 0.5)))
    ]
    (row,) = results_of(read_study(tmp_path, read_plan(tmp_path)))["references"][0]["rows"]
    ce, soft = read_methods(folders)
    dice = next(tested for shown, tested in overlap_rows([soft, ce]) if shown.label.startswith("Dice, mean"))
    assert dice is not None
    for column, tested in ((f"ece/{MAIN}", pooled_ece(MAIN)), ("ece/all", pooled_ece("all")), ("dice", dice)):
        assert paired([soft, ce], tested)[0, 1] == pytest.approx(row["differences"][column])


def test_overlapping_intervals_leave_no_clear_difference_open(tmp_path: Path) -> None:
    sharp, soft = methods(tmp_path, {"sharp": 2.0, "soft": 1.8})
    assert sharp.main["ece_low"] < soft.main["ece_high"] < sharp.main["ece_high"]  # unpaired, they overlap
    entry = paired([soft, sharp], pooled_ece(MAIN))[0, 1]
    assert entry["difference"] == pytest.approx(soft.main["ece"] - sharp.main["ece"])
    assert entry["p_holm"] == entry["p"] == 2 / 2**6  # six patients, all of one sign
    said = comparison([sharp, soft])[1:]
    low, high = sorted((-entry["low"], -entry["high"]))
    size = f"{-entry['difference']:.4f} [{low:.4f}, {high:.4f}]"
    assert said == [f"Paired over 6 patients: soft lower than sharp by {size}, p_holm 0.031."]
    marks = bold([sharp, soft])
    assert marks["ECE, pooled over voxels"] == [False, True]
    assert marks["ECE, mean over cases"] == [False, True]
    assert marks["MCE (worst bin), pooled"] == [False, False]  # no interval, not tested
    assert "each clearly" in legend([sharp, soft])
    assert "left open" not in legend([sharp, soft]).partition(RULE)[2]
    assert RULE in legend([sharp, soft])


def test_three_methods_on_six_patients_are_out_of_reach(tmp_path: Path) -> None:
    found = methods(tmp_path, {"sharp": 2.4, "middle": 2.0, "soft": 1.6})
    said = comparison(found)
    limit = "With 6 patients and 3 comparisons p_holm cannot be below 0.094: these differences are left open."
    assert said[-1] == limit
    assert legend(found).endswith(limit)
    assert re.findall(r"(\w+) not shown to differ from (\w+) ", said[1]) == [
        ("soft", "middle"),
        ("soft", "sharp"),
        ("middle", "sharp"),
    ]
    assert said[1].count("p_holm 0.094") == 3
    assert not any(any(marks) for marks in bold(found).values())


def test_more_than_three_are_compared_with_the_lowest(tmp_path: Path) -> None:
    found = methods(tmp_path, {"d": 2.8, "c": 2.4, "b": 2.0, "a": 1.6}, cases=16)
    said = comparison(found)[1]
    assert re.findall(r"(\w+) lower than (\w+) ", said) == [("a", "b"), ("a", "c"), ("a", "d")]
    assert said.count("p_holm 0.047") == 3  # six pairs of methods on 8 patients: 6 x 2 / 2^8
    assert bold(found)["ECE, pooled over voxels"] == [False, False, False, True]


def test_too_few_patients_or_other_patients_are_not_compared(tmp_path: Path) -> None:
    first, second = methods(tmp_path, {"first": 2.0, "second": 1.5}, cases=4)
    assert comparison([first, second])[-1].endswith("(fewer than 3 patients), so no method is set apart.")
    write_scores(tmp_path / "alone", [case_of(0, k, 1.5, 0.5, f"other{k}") for k in range(4)])
    (alone,) = read_methods([tmp_path / "alone"])
    assert comparison([first, alone]) == ["The methods are not compared: they differ in cases scored."]
    for case in second.cases:
        object.__setattr__(case, "patient_id", case.case_id)
    assert comparison([first, second]) == ["The methods are not compared: they differ in patients of the cases."]
    assert legend([first, second]).endswith("they differ in patients of the cases.")
    second.scores["settings"]["bins"] = 10
    assert comparison([first, second])[0].endswith("differ in bins or edge rule, patients of the cases.")


def test_a_method_without_scores_leaves_the_table_unmarked(tmp_path: Path) -> None:
    found = methods(tmp_path, {"sharp": 2.4, "soft": 1.6})
    write_scores(tmp_path / "none", [])
    empty = read_methods([tmp_path / "none"])
    assert read_json(tmp_path / "none" / "scores.json")["n_scored"] == 0
    assert not any(any(marks) for marks in bold([*found, *empty]).values())
    assert "no scored case" in legend([*found, *empty])
