"""Paired comparison: by hand, against scipy, and what is refused."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from helpers import smooth_case
from scipy.stats import wilcoxon

from medcalib.metrics import CaseScores, score_case
from medcalib.metrics.paired import compare, holm, paired_difference
from medcalib.metrics.summary import summarize

PATIENTS = [f"p{k}" for k in range(8)]
FIRST = [0.5, 0.6, 0.4, 0.7, 0.55, 0.65, 0.45, 0.52]
SECOND = [0.55, 0.58, 0.5, 0.78, 0.6, 0.71, 0.52, 0.55]


def test_the_mean_difference_has_an_interval_and_the_p_of_wilcoxon() -> None:
    found = paired_difference(FIRST, SECOND, PATIENTS)
    differences = np.array(SECOND) - FIRST
    assert found.difference == pytest.approx(differences.mean())
    assert found.low is not None
    assert found.high is not None
    assert 0 < found.low < found.difference < found.high
    assert found.p == wilcoxon(differences).pvalue
    assert (found.n, found.patients, found.left_out) == (8, 8, 0)


def test_without_a_pair_there_is_no_difference() -> None:
    found = paired_difference([None, 0.5], [0.4, None], ["p0", "p1"])
    assert vars(found) == dict.fromkeys(vars(found)) | {"n": 0, "patients": 0, "left_out": 2}


def test_swapping_the_methods_turns_the_sign() -> None:
    a, b = paired_difference(FIRST, SECOND, PATIENTS), paired_difference(SECOND, FIRST, PATIENTS)
    assert (a.difference, a.p) == (pytest.approx(-b.difference), b.p)
    assert a.low == pytest.approx(-b.high, abs=2e-3)  # another end of the same resamples


def test_cases_of_one_patient_are_one_observation() -> None:
    doubled = paired_difference(FIRST * 2, SECOND * 2, PATIENTS * 2)
    single = paired_difference(FIRST, SECOND, PATIENTS)
    assert (doubled.n, doubled.patients, doubled.p) == (16, 8, single.p)
    assert (doubled.low, doubled.high) == (pytest.approx(single.low), pytest.approx(single.high))


def test_absent_values_are_left_out_and_counted() -> None:
    first = [None, *FIRST[1:]]
    second = [*SECOND[:-1], None]
    found = paired_difference(first, second, PATIENTS)
    assert (found.n, found.left_out) == (6, 2)
    assert found.difference == pytest.approx(np.mean(np.array(SECOND[1:-1]) - FIRST[1:-1]))
    nothing = paired_difference([None], [0.5], ["p"])
    assert (nothing.difference, nothing.p, nothing.n, nothing.left_out) == (None, None, 0, 1)


def test_equal_methods_have_no_p() -> None:
    found = paired_difference(FIRST, FIRST, PATIENTS)
    assert (found.difference, found.p) == (0.0, None)


def test_holm_by_hand() -> None:
    """0.01 x 3, then 0.04 x 2 and 0.03 x 2 in order: 0.03, 0.06, 0.06 (never falling); None does not count."""
    found = holm({"a": 0.01, "b": 0.04, "c": 0.03, "d": None})
    assert found == pytest.approx({"a": 0.03, "b": 0.06, "c": 0.06, "d": None}, nan_ok=True)
    assert holm({"a": 0.9, "b": 0.8}) == {"a": 1.0, "b": 1.0}


def scores(sharpness: float, **options: Any) -> dict[str, Any]:
    cases: list[CaseScores] = []
    for k in range(6):
        probs, labels = smooth_case(k, sharpness=3.0)
        probs = probs.double().pow(sharpness)
        given = {"case_id": f"c{k}", "patient_id": f"p{k}", "class_names": ("background", "LV", "a/b", "d")} | options
        cases.append(score_case(probs / probs.sum(0), labels, **given, distances=False))
    return summarize(cases, expected=6, refused=[])


def test_two_methods_are_compared_score_by_score() -> None:
    calibrated, sharp = scores(1.0), scores(3.0)
    names = ["regions/all/ece", "dice/LV", "regions/all/classwise_ece/a/b", "volume_ml/a/b/error"]
    found = compare(calibrated, sharp, names)
    assert list(found) == names
    ece = found["regions/all/ece"]
    values = [[s["cases"][f"c{k}"]["regions"]["all"]["ece"] for k in range(6)] for s in (calibrated, sharp)]
    assert ece.difference == pytest.approx(np.mean(values[1]) - np.mean(values[0]))
    assert ece.low is not None
    assert ece.low > 0
    assert ece.p == 2 / 2**6  # all six differences have one sign
    assert found["dice/LV"].difference == 0.0
    assert ece.p_holm == pytest.approx(2 * ece.p)  # two of the four differ at all


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda s: s["cases"].pop("c3"), "1 cases are in one set only, c3 in the first; score the same cases"),
        (lambda s: s["cases"]["c1"].update(patient_id="q"), "c1 belongs to different patients"),
        (lambda s: s["settings"].update(bins=10), "the two sets differ in bins: 15 and 10; score both alike"),
    ],
)
def test_sets_that_are_not_paired_are_refused_by_name(change: Any, message: str) -> None:
    first, second = scores(1.0), scores(2.0)
    change(second)
    with pytest.raises(ValueError, match=message):
        compare(first, second, ["dice/LV"])


@pytest.mark.parametrize(
    ("score", "message"),
    [
        ("dice/RV", "c0 has no score 'dice/RV'; it has LV, a/b, d there"),
        ("dice", "'dice' is no number but LV, a/b, d"),
        ("dice/LV/x", "c0 has no score 'dice/LV/x'; it has nothing there"),
    ],
)
def test_scores_that_do_not_exist_are_refused_with_what_does(score: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        compare(scores(1.0), scores(1.0), [score])
