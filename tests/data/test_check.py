"""A data folder is judged at once: every problem by name, shared warnings in one line, ids that are safe."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from medcalib.data.case import Case
from medcalib.data.check import check_case, find_cases, require
from medcalib.data.labels import LabelMap
from medcalib.data.layouts import files
from medcalib.data.layouts.common import Problems, report_unpaired
from medcalib.errors import DataRefusedError, Problem, grouped

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


@pytest.mark.parametrize(
    ("exclude", "words"),
    [
        (["p1", "p2_b"], "'p2_b': no case or patient of the folder; did you mean 'p2_a'?"),
        (["P1_A"], "'P1_A': no case or patient of the folder; did you mean 'p1_a'?"),
        (
            ["p1_c", "p1_d"],
            "'p1_c': no case or patient of the folder; did you mean 'p1_b'? [unknown_id]\n"
            "error: data.exclude 'p1_d': no case or patient of the folder; did you mean 'p1_b'?",
        ),
        (["nobody"], "'nobody': no case or patient of the folder; its ids are such as p1"),
    ],
)
def test_an_id_to_leave_out_that_nothing_has_is_refused(tmp_path: Path, exclude: list[str], words: str) -> None:
    """A mistyped one would be trained on without a word."""
    _, problems = find_cases(layout_of("p1_a", "p1_b", "p2_a"), tmp_path, {}, exclude=exclude)
    with pytest.raises(DataRefusedError) as caught:
        require(problems)
    assert str(caught.value) == f"error: data.exclude {words} [unknown_id]"


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
    merged = grouped([*shared, error, Problem("c9", "other", "odd", "warning")])
    assert list(map(str, merged)) == [
        "error: c2: refused [bad]",
        "warning: 5 cases (c0, c1, ...): repaired [unit]",
        "warning: c9: odd [other]",
    ]


def code(case: str, text: str) -> Problem:
    return Problem(case, "unknown_label", f"data 1/of{case}/{case}_gt.nii.gz: label code {text} is not declared (a=1)")


@pytest.mark.parametrize(
    ("problems", "lines"),
    [
        (  # each names its own file and number of voxels
            [code("p1", "3 (12 voxels)"), code("p2", "3 (1,345 voxels)"), code("p3", "3 (7 voxels)")],
            [
                "error: 3 cases (p1, p2, ...): the first: data 1/ofp1/p1_gt.nii.gz: label code 3 (12 voxels) is not "
                "declared (a=1) [unknown_label]"
            ],
        ),
        (  # another code is another mistake
            [code("p1", "3 (12 voxels)"), code("p2", "4 (12 voxels)")],
            [str(code("p1", "3 (12 voxels)")), str(code("p2", "4 (12 voxels)"))],
        ),
        (
            [code("p1", "13 (12 voxels), 2 (1 voxels)"), code("p2", "13 (12 voxels), 4 (1 voxels)")],
            [str(code("p1", "13 (12 voxels), 2 (1 voxels)")), str(code("p2", "13 (12 voxels), 4 (1 voxels)"))],
        ),
        (  # and so is another word
            [Problem("p1", "missing", "no file for t1; add it"), Problem("p2", "missing", "no file for t2w; add it")],
            ["error: p1: no file for t1; add it [missing]", "error: p2: no file for t2w; add it [missing]"],
        ),
        (
            [Problem("split", "leak", f"patient p{k} is in test and train; keep one") for k in range(24)],
            ["error: split: patient p0 is in test and train; keep one (and 23 more like it) [leak]"],
        ),
        (  # each shard is named
            [Problem(f"shard {k}/3", "missing", "is missing; score it") for k in (1, 2)],
            [f"error: shard {k}/3: is missing; score it [missing]" for k in (1, 2)],
        ),
        (  # an id that is a part of a word is none
            [Problem("a", "odd", "a has another shape"), Problem("as", "odd", "as has another shape")],
            ["error: 2 cases (a, as): the first: a has another shape [odd]"],
        ),
    ],
)
def test_errors_that_are_alike_are_told_together_with_the_details_of_the_first(
    problems: list[Problem], lines: list[str]
) -> None:
    assert list(map(str, grouped(problems))) == lines
    refused = DataRefusedError(problems)
    assert str(refused).splitlines() == lines
    assert refused.problems == tuple(problems)


@pytest.mark.parametrize(
    ("ids", "patients", "pattern"),
    [
        (["p01_ED", "p01_ES", "p02_ED", "p02_ES"], 2, "(.+)[_-][^_-]+"),
        (["BraTS-GLI-00000-000", "BraTS-GLI-00000-001", "BraTS-GLI-00002-000"], 2, "(.+)[_-][^_-]+"),
        (["sub-01_ses-1_run-1", "sub-01_ses-2_run-1", "sub-02_ses-1_run-1"], 2, "(sub-[A-Za-z0-9]+)_.*"),
        (["p01_1", "p01_2", "p02_1", "x7"], 3, "(.+?)(?:[_-][^_-]+)?"),
        (["hippocampus_001", "hippocampus_002"], None, ""),
        (["case_00000", "case_00001"], None, ""),
        (["FLARE22_Tr_0001", "FLARE22_Tr_0002", "FLARE22_Ts_0001", "FLARE22_Ts_0002"], None, ""),
        (["Brats17_TCIA_202_1", "Brats17_TCIA_203_1", "Brats17_2013_2_1"], None, ""),
        (["BraTS20_Training_001", "BraTS20_Training_002"], None, ""),
        (["p01_ED", "p02_ED", "p03_ED"], None, ""),
        (["0001", "0002"], None, ""),
        (["s1-a", "s1-b"], None, ""),
    ],
)
def test_cases_that_look_like_those_of_one_patient_are_told(
    tmp_path: Path, ids: list[str], patients: int | None, pattern: str
) -> None:
    """The pattern that is proposed does what is said of it."""
    for name in ids:
        for folder in ("images", "labels"):
            (tmp_path / folder).mkdir(exist_ok=True)
            (tmp_path / folder / f"{name}.nii.gz").write_bytes(b"")
    cases, problems = find_cases(files, tmp_path, {})
    assert len({case.patient_id for case in cases}) == len(ids)
    if patients is None:
        assert problems == []
        return
    [told] = problems
    assert (told.reason, told.level) == ("shared_patient", "warning")
    assert f"each of {len(ids)} cases counts as a patient of its own, but" in told.message
    assert f"look like {patients} patients ({ids[0]} and {ids[1]} of one)" in told.message
    assert told.message.endswith(f"write `patient: '{pattern}'` into `data.layout`")
    cases, problems = find_cases(files, tmp_path, {"patient": pattern})
    assert problems == []
    assert len({case.patient_id for case in cases}) == patients
