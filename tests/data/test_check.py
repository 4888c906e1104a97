"""A data folder is judged at once: every problem by name, shared warnings in one line, ids that are safe."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from medcalib.data.case import Case
from medcalib.data.check import check_case, find_cases, merged_warnings, require
from medcalib.data.labels import LabelMap
from medcalib.data.layouts.common import Problems, report_unpaired
from medcalib.errors import DataRefusedError, Problem

CLASSES = LabelMap.consecutive(["background", "a", "b"])
IMAGE = np.random.default_rng(0).random((4, 5, 6)).astype(np.float32)
LABEL = np.zeros((4, 5, 6), np.uint8)
LABEL[1:3, 1:3, 1:3] = 1
Write = Callable[..., Path]


def layout_of(*ids: str, unpaired: tuple[str, ...] = ()) -> Callable[..., list[Case]]:
    def layout(root: Path, problems: Problems, **options: Any) -> list[Case]:
        report_unpaired("image", "a label", unpaired, problems)
        return [Case(i, i.split("_")[0], (root / i,)) for i in ids]

    return layout


def check(case: Case, **options: Any) -> list[Problem]:
    return check_case(case, CLASSES, **({"nonfinite": "refuse", "channels": 1, "resampled": False} | options))[1]


def reasons(problems: list[Problem]) -> list[str]:
    return [problem.reason for problem in problems]


@pytest.mark.fault(16)
@pytest.mark.parametrize(
    "name",
    ["../../evil", "/abs", "a/../../b", "a\0b", "x" * 300, "CON", "com1.x", ".hidden", "dot.", "α", "a b", "", "a\n"],
)
def test_an_id_that_cannot_be_a_file_name_is_refused(tmp_path: Path, name: str) -> None:
    _, problems = find_cases(layout_of(name), tmp_path, {})
    assert reasons(problems) == ["unsafe_case_id"]
    assert len(str(problems[0])) < 500
    assert "\0" not in str(problems[0])


@pytest.mark.fault(16)
def test_ids_that_differ_in_letter_case_alone_are_refused(tmp_path: Path) -> None:
    _, problems = find_cases(layout_of("Case_1", "case_1", "case_2"), tmp_path, {})
    assert [(p.where, p.reason) for p in problems] == [("case_1", "duplicate_case_id")]
    assert "Case_1" in problems[0].message


@pytest.mark.fault(36)
def test_unpaired_files_stop_unless_they_may_be_skipped(tmp_path: Path) -> None:
    layout = layout_of("a", "b", unpaired=("b", "c"))
    cases, problems = find_cases(layout, tmp_path, {})
    with pytest.raises(DataRefusedError, match="skip_unpaired: true") as caught:
        require(problems)
    assert [p.where for p in caught.value.problems] == ["b", "c"]
    cases, problems = find_cases(layout, tmp_path, {}, skip_unpaired=True)
    assert [c.id for c in cases] == ["a"]
    assert {p.level for p in problems} == {"warning"}
    assert [p.message for p in problems] == ["image without a label; left out"] * 2
    require(problems)


def test_excluded_cases_and_patients_bring_no_problems(tmp_path: Path) -> None:
    layout = layout_of("p1_a", "p1_b", "p2_a", "p3_a", unpaired=("p3_a",))
    cases, problems = find_cases(layout, tmp_path, {}, exclude=["p1", "p3_a"])
    assert [c.id for c in cases] == ["p2_a"]
    assert problems == []


def test_a_missing_or_empty_folder_says_what_to_do(tmp_path: Path) -> None:
    _, problems = find_cases(layout_of("a"), tmp_path / "absent", {})
    assert reasons(problems) == ["missing_folder"]
    assert "--data" in problems[0].message
    _, problems = find_cases(layout_of(), tmp_path, {})
    assert reasons(problems) == ["no_case"]


def test_a_sound_case_has_no_problem(volume: Write) -> None:
    case = Case("c", "p", (volume("i.nii.gz", IMAGE),), volume("l.nii.gz", LABEL))
    loaded, problems = check_case(case, CLASSES, nonfinite="refuse", channels=1, resampled=True)
    assert problems == []
    assert loaded is not None


def test_a_damaged_case_is_reported_and_not_raised(volume: Write) -> None:
    case = Case("c", "p", (volume("i.nii.gz", IMAGE),), volume("l.nii.gz", LABEL + 7))
    loaded, problems = check_case(case, CLASSES, nonfinite="refuse", channels=None, resampled=False)
    assert loaded is None
    assert [(p.where, p.reason, p.level) for p in problems] == [("c", "unknown_label", "error")]


@pytest.mark.fault(38, 39)
def test_what_is_odd_about_a_case_is_said(volume: Write) -> None:
    image = volume("i.nii.gz", IMAGE)
    assert reasons(check(Case("c", "p", (image,)))) == ["no_label"]
    assert reasons(check(Case("c", "p", (image,), volume("e.nii.gz", 0 * LABEL)))) == ["empty_label"]
    label = volume("l.nii.gz", LABEL)
    assert reasons(check(Case("c", "p", (image,), label), channels=4)) == ["channel_count"]
    assert reasons(check(Case("c", "p", (volume("k.nii.gz", 0 * IMAGE),), label))) == ["constant_image"]


def test_a_label_of_ignored_voxels_only_counts_as_empty(volume: Write) -> None:
    case = Case("c", "p", (volume("i.nii.gz", IMAGE),), volume("l.nii.gz", 0 * LABEL + 9))
    ignoring = LabelMap(CLASSES.class_names, CLASSES.codes, ignore_code=9)
    _, problems = check_case(case, ignoring, nonfinite="refuse", channels=1, resampled=False)
    assert reasons(problems) == ["empty_label"]


def test_a_warning_that_cases_share_becomes_one_line() -> None:
    shared = [Problem(f"c{i}", "unit", "repaired", "warning") for i in range(5)]
    error = Problem("c2", "bad", "refused")
    merged = merged_warnings([*shared, error, Problem("c9", "other", "odd", "warning")])
    assert list(map(str, merged)) == [
        "error: c2: refused [bad]",
        "warning: 5 cases (c0, c1, ...): repaired [unit]",
        "warning: c9: odd [other]",
    ]
