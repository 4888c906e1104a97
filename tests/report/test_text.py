"""What `medcalib score` prints: aligned, short, and nothing hidden."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from helpers import smooth_case

from medcalib.metrics import score_case
from medcalib.metrics.summary import summarize
from medcalib.report.text import _structures, _warnings, score_text

NAMES = ("background", "a", "b", "c")


def text(*, per_patient: int = 1, n: int = 4, **options: Any) -> str:
    cases = []
    for k in range(n):
        probs, labels = smooth_case(k)
        if options.get("activation") == "sigmoid":
            probs = torch.stack([probs[1:].sum(0).clamp(max=1), probs[2]])
        cases.append(
            score_case(probs, labels, case_id=f"c{k}", class_names=NAMES, patient_id=f"p{k // per_patient}", **options)
        )
    refused = [{"case": "c9", "reason": "truncated", "message": "copy it again"}]
    return score_text(summarize(cases, expected=n + 1, refused=refused))


def rows(printed: str, first: str) -> list[list[str]]:
    """Cells of the table whose header starts so; two or more spaces part them."""
    lines = printed.splitlines()
    start = next(k for k, line in enumerate(lines) if line.startswith(first))
    rest = lines[start + 2 :]
    table = rest[: rest.index("")] if "" in rest else rest
    return [[cell for cell in line.split("  ") if cell.strip()] for line in table]


def test_it_has_a_row_a_class_and_a_row_a_region() -> None:
    printed = text(composites={"ab": (1, 2)})
    assert [row[0].strip() for row in rows(printed, "class")] == ["a", "b", "c", "ab", "mean of classes"]
    assert [row[0].strip() for row in rows(printed, "region")] == [
        "all",
        "foreground",
        "gt_foreground",
        "pred_foreground",
        "boundary",
    ]
    assert "true ECE" not in printed
    assert max(map(len, printed.splitlines())) < 160


def test_refusals_and_warnings_come_first() -> None:
    lines = text(warnings=["float16_probabilities: 12 voxels"]).splitlines()
    assert lines[0] == "scored 4 of 5 cases"
    assert lines[1] == "refused c9: copy it again [truncated]"
    assert lines[2] == "warning c0, c1, c2 and 1 more: float16_probabilities: 12 voxels"


def test_a_known_posterior_adds_a_column() -> None:
    probs, labels = smooth_case(0)
    case = score_case(probs, labels, case_id="c", class_names=NAMES, posterior=probs)
    printed = score_text(summarize([case], expected=1, refused=[]))
    assert "true ECE" in printed
    assert "0.0000" in rows(printed, "region")[0][3]


def test_a_protocol_is_one_line() -> None:
    [line] = [line for line in text(protocols=("marginloss",)).splitlines() if line.startswith("protocol")]
    assert line.startswith("protocol marginloss: ece 0.")
    assert "dsc 0." in line
    assert "/" not in line


def test_a_region_model_shows_what_it_has() -> None:
    printed = text(activation="sigmoid", groups=((1, 2, 3), (2,)))
    assert [row[0].strip() for row in rows(printed, "class")] == ["a+b+c", "b", "mean of classes"]
    region = rows(printed, "region")[0]
    assert region[1].strip() == "n/a"
    assert float(region[3]) > 0


def test_only_independent_regions_are_told_that_they_have_no_top_label() -> None:
    told = "independent regions have no top label"
    assert told not in text()
    assert told in text(activation="sigmoid", groups=((1, 2, 3), (2,)))


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"per_patient": 2, "n": 6}, "brackets: 95 % bootstrap over 3 patients;"),
        ({}, "brackets: 95 % bootstrap over 4 cases, each taken as a patient of its own (a --config says which"),
        ({"per_patient": 2}, "no intervals: 2 patients, 3 are needed;"),
        ({"n": 1}, "no intervals: 1 patient, 3 are needed;"),
    ],
)
def test_it_says_over_what_the_intervals_are(options: dict[str, int], said: str) -> None:
    assert said in text(**options)
    assert ("[" in rows(text(**options), "class")[0][1]) == said.startswith("brackets")


def test_errors_of_both_volumes_are_in_ml() -> None:
    printed = text(n=3)
    header = next(line for line in printed.splitlines() if line.startswith("class"))
    assert [cell.strip() for cell in header.split("  ") if cell][-3:] == [
        "volume error ml",
        "expected-volume error ml",
        "cases",
    ]
    volumes = {"error": {"value": -1.0}, "expected_error": {"value": 2570.0}}
    entry = {"value": 0.5, "low": None, "high": None, "n": 3}
    mean = {"dice": {"liver": entry}, "hd95_mm": {}, "volume_ml": {"liver": volumes}}
    cells = [cell.strip() for cell in _structures(mean).splitlines()[2].split("  ") if cell.strip()]
    assert cells[-3:] == ["-1.00", "+2570.00", "3"]


def test_nothing_scored_prints_why() -> None:
    refused = [{"case": "c1", "reason": "truncated", "message": "copy it again"}]
    assert score_text(summarize([], expected=1, refused=refused)).splitlines() == [
        "scored 0 of 1 cases",
        "refused c1: copy it again [truncated]",
    ]


def test_a_warning_of_many_cases_is_one_line() -> None:
    cases = {f"case_{k}": {"warnings": ["flat: no signal"]} for k in range(5)} | {"other": {"warnings": ["odd: one"]}}
    assert _warnings(cases) == ["warning case_0, case_1, case_2 and 2 more: flat: no signal", "warning other: odd: one"]


def test_a_class_of_the_name_foreground_keeps_it() -> None:
    mean = {
        "dice": {"foreground": {"value": 0.5, "low": None, "high": None, "n": 1}},
        "hd95_mm": {"foreground": {"value": 2.0, "low": None, "high": None, "n": 1}},
    }
    assert _structures(mean).splitlines()[2].startswith("foreground")
