"""Direction, size and interval of the gap are those of the counts, and the words follow them."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from helpers import smooth_case

from medcalib.files import write_json
from medcalib.metrics import score_case
from medcalib.metrics.intervals import Interval
from medcalib.metrics.summary import summarize

pytest.importorskip("matplotlib")
from medcalib.report.content import Method, read_methods
from medcalib.report.findings import Finding, findings, gaps_of, main_finding, worst_class
from medcalib.report.headlines import headline

NAMES = ("background", "a", "b", "c")


def method(folder: Path, power: float, *, patients: int = 5, binary: bool = False) -> Method:
    """Calibrated probabilities, sharpened by a power above 1 and flattened by one below."""
    cases = []
    for k in range(patients):
        probs, labels = smooth_case(k)
        given = probs**power / (probs**power).sum(0)
        options = {"activation": "sigmoid", "groups": ((1, 2, 3), (2,))} if binary else {}
        if binary:
            given = torch.stack([probs[1:].sum(0).clamp(max=1), probs[2]]) ** power
        case = score_case(given, labels, case_id=f"c{k}", class_names=NAMES, distances=False, **options)
        case.save(folder / f"{k}.npz")
        cases.append(case)
    write_json(folder / "scores.json", summarize(cases, expected=patients, refused=[]) | {"method": {"name": "m"}})
    return read_methods([folder])[0]


@pytest.mark.parametrize(("power", "direction", "word"), [(2.5, "over", "Over"), (0.5, "under", "Under")])
def test_sharpened_is_overconfident_and_flattened_underconfident(
    tmp_path: Path, power: float, direction: str, word: str
) -> None:
    found = headline(method(tmp_path, power))
    assert found.direction == direction
    assert found.verdict == f"{word}confident in the predicted foreground"


def test_a_calibrated_method_is_never_called_calibrated(tmp_path: Path) -> None:
    found = headline(method(tmp_path, 1.0))
    assert found.direction == "none"
    assert found.verdict == "No evidence of miscalibration in the predicted foreground"
    assert found.finding is not None
    low, high = found.finding.gap_interval
    assert low is not None
    assert high is not None
    assert low < 0 < high


def test_numbers_are_those_of_the_scores(tmp_path: Path) -> None:
    read = method(tmp_path, 2.5)
    found = main_finding(read)
    pooled = read.scores["pooled"]["pred_foreground"]
    assert found is not None
    assert found.voxels == pooled["voxels"]
    assert found.right == pytest.approx(pooled["accuracy"], rel=1e-6)  # stored after a division in float32
    assert found.gap == pytest.approx(pooled["gap"], rel=1e-9)
    assert found.ece == pytest.approx(pooled["ece"], rel=1e-9)
    assert found.ece_interval == pytest.approx((pooled["ece_low"], pooled["ece_high"]), rel=1e-9)
    worst = worst_class(read)
    classwise = {k: v for k, v in pooled["classwise_ece"].items() if k != "background"}
    assert worst is not None
    assert worst.name == max(classwise, key=classwise.__getitem__)
    assert [gap.where for gap in gaps_of(read)] == [*read.regions, "class a", "class b", "class c"]
    assert [gap.of_class for gap in gaps_of(read)] == [False] * len(read.regions) + [True] * 3
    assert gaps_of(read)[0].value == pytest.approx(pooled["gap"], rel=1e-9)


def test_two_patients_have_no_interval_and_the_page_says_so(tmp_path: Path) -> None:
    found = headline(method(tmp_path, 2.5, patients=2))
    assert found.direction == "over"
    assert "no interval: 2 patients, 3 are needed" in found.sentences[0]


def test_independent_regions_are_judged_by_the_worst_one(tmp_path: Path) -> None:
    read = method(tmp_path, 1.6, binary=True)
    found = headline(read)
    assert found.finding is not None
    pooled = read.scores["pooled"]["pred_foreground"]["classwise_ece"]
    assert pooled[found.finding.name] == max(v for k, v in pooled.items() if v is not None and k != "background")
    assert found.verdict == f"Probabilities of {found.finding.name} too low in the predicted foreground"
    assert [gap.where for gap in gaps_of(read)] == ["class a+b+c", "class b"]
    assert all(gap.of_class for gap in gaps_of(read))


@pytest.mark.parametrize(
    ("gap", "interval", "ece", "direction"),
    [
        (0.05, (0.01, 0.09), 0.05, "over"),
        (-0.05, (-0.09, -0.01), 0.05, "under"),
        (0.01, (-0.01, 0.03), 0.015, "none"),
        (0.01, (-0.01, 0.03), 0.08, "open"),
        (0.05, (None, None), 0.05, "over"),
        (0.0, (None, None), 0.08, "open"),
    ],
)
def test_direction_needs_an_interval_on_one_side(
    gap: float, interval: tuple[float | None, float | None], ece: float, direction: str
) -> None:
    found = Finding("all", 0, "", 0.9 + gap, 0.9, ece, 10, gap_interval=Interval(*interval))
    assert found.direction == direction


def test_a_place_without_voxels_is_left_out(tmp_path: Path) -> None:
    read = method(tmp_path, 1.6, binary=True)
    assert findings(read, [("all", 0)]) == []  # independent regions have no top label
