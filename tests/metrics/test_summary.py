"""scores.json: pooled and mean over cases by hand, null with a count where nothing is defined."""

from __future__ import annotations

import json
import math
from typing import Any

import numpy as np
import pytest
import torch
from helpers import smooth_case

from medcalib.metrics import CalibrationCounts, CaseScores, OverlapCounts, score_case
from medcalib.metrics.brier_parts import brier_parts, classwise_brier
from medcalib.metrics.error_overlap import uncertainty_error_overlap
from medcalib.metrics.protocols import PROTOCOLS, protocol_mean
from medcalib.metrics.qu_brats import qu_brats
from medcalib.metrics.selective import aurc, excess_aurc
from medcalib.metrics.squared import debiased_squared_error, rms_calibration_error
from medcalib.metrics.summary import summarize
from medcalib.metrics.thresholded import thresholded_ece

NAMES = ("background", "a", "b", "c")
CASES = [smooth_case(seed, sharpness=2.0 + seed) for seed in range(6)]


def score(index: int, case_id: str | None = None, patient: str | None = None, **options: Any) -> CaseScores:
    probs, labels = CASES[index]
    labels = options.pop("labels", labels)
    name = case_id or f"c{index}"
    defaults = {"class_names": NAMES, "distances": False, "patient_id": patient or f"p{index}"}
    return score_case(probs, labels, case_id=name, **(defaults | options))


def summary(cases: list[CaseScores], **options: Any) -> dict[str, Any]:
    found = summarize(cases, **({"expected": len(cases), "refused": []} | options))
    json.dumps(found, allow_nan=False)  # absent is null, never NaN
    return found


def test_pooled_is_over_voxels_and_mean_is_over_cases() -> None:
    cases = [score(k) for k in range(4)]
    found = summary(cases, bins=10)
    probs, labels = (torch.stack([CASES[k][i] for k in range(4)]) for i in (0, 1))
    pooled = CalibrationCounts.from_probs(probs, labels)
    assert found["pooled"]["all"]["ece"] == pooled.ece(10)
    assert found["pooled"]["all"]["voxels"] == labels.numel()
    assert found["pooled"]["all"]["classwise_ece"]["b"] == float(pooled.classwise_ece(10)[2])
    single = [CalibrationCounts.from_probs(CASES[k][0][None], CASES[k][1][None]).ece(10) for k in range(4)]
    mean = found["mean"]["all"]["ece"]
    assert mean["value"] == pytest.approx(np.mean(single), abs=1e-14)
    assert mean["n"] == 4
    assert [found["cases"][f"c{k}"]["regions"]["all"]["ece"] for k in range(4)] == single


def test_dice_is_averaged_over_cases_and_over_foreground_classes() -> None:
    found = summary([score(k) for k in range(4)])
    per_case = np.array(
        [
            [2 * ((p.argmax(0) == c) & (y == c)).sum() / ((p.argmax(0) == c).sum() + (y == c).sum()) for c in (1, 2, 3)]
            for p, y in CASES[:4]
        ]
    )
    assert [found["mean"]["dice"][n]["value"] for n in "abc"] == pytest.approx(per_case.mean(0).tolist())
    assert found["mean"]["dice"]["foreground"]["value"] == pytest.approx(per_case.mean())
    assert "background" not in found["mean"]["dice"]


def test_the_gap_has_the_sign_of_overconfidence() -> None:
    probs, labels = CASES[0]
    gap = float((probs.max(0).values.double() - (probs.argmax(0) == labels).double()).mean())
    assert summary([score(0)])["pooled"]["all"]["gap"] == pytest.approx(gap, abs=1e-12)


def test_intervals_contain_their_value_and_repeat() -> None:
    cases = [score(k) for k in range(6)]
    found = summary(cases)
    for mean in (found["mean"]["all"]["ece"], found["mean"]["foreground"]["brier"], found["mean"]["dice"]["a"]):
        assert mean["low"] < mean["value"] < mean["high"]
    pooled = found["pooled"]["all"]
    assert pooled["ece_low"] < pooled["ece"] < pooled["ece_high"]
    assert summary(cases) == found
    assert summary(cases[::-1]) == found


def test_many_cases_of_one_patient_have_no_interval() -> None:
    found = summary([score(k, patient="p") for k in range(5)])
    mean, pooled = found["mean"]["all"]["ece"], found["pooled"]["all"]
    assert (mean["low"], mean["high"], mean["n"]) == (None, None, 5)
    assert mean["value"] > 0
    assert (pooled["ece_low"], pooled["ece_high"]) == (None, None)


def test_every_case_of_a_patient_counts_in_the_mean() -> None:
    cases = [score(k, patient=f"p{k // 2}") for k in range(6)]
    mean = summary(cases)["mean"]["all"]["ece"]
    assert mean["value"] == pytest.approx(np.mean([c.regions["all"].calibration.ece() for c in cases]), abs=1e-14)
    assert mean["low"] < mean["value"] < mean["high"]


def test_an_absent_class_is_null_and_counted() -> None:
    probs, labels = CASES[0]
    bare = torch.zeros_like(probs)
    bare[0] = 1
    without = score_case(bare, torch.zeros_like(labels), case_id="bare", class_names=NAMES)
    found = summary([score(0, distances=True), score(1, distances=True), without])
    assert found["cases"]["bare"]["dice"] == {"a": None, "b": None, "c": None}
    assert found["cases"]["bare"]["hd95_mm"] == {"a": None, "b": None, "c": None}
    assert found["mean"]["dice"]["a"]["n"] == found["mean"]["hd95_mm"]["a"]["n"] == 2
    assert found["mean"]["dice"]["foreground"]["n"] == 2
    assert found["cases"]["bare"]["regions"]["gt_foreground"]["ece"] is None
    assert found["mean"]["gt_foreground"]["ece"]["n"] == 2
    assert found["mean"]["all"]["ece"]["n"] == 3


def test_a_partially_labelled_case_counts_only_where_it_is_labelled() -> None:
    cases = [score(0), score(1), score(2, labelled_classes=["a", "c"])]
    found = summary(cases)
    assert {name: found["mean"]["dice"][name]["n"] for name in "abc"} == {"a": 3, "b": 2, "c": 3}
    assert found["cases"]["c2"]["dice"]["b"] is None
    counts = {name: found["mean"]["all"]["classwise_ece"][name]["n"] for name in NAMES}
    assert counts == {"background": 2, "a": 3, "b": 2, "c": 3}
    complete = summary(cases[:2])
    for key in ("ece", "brier", "nll", "mce", "ece_equal_mass"):
        assert found["pooled"]["all"][key] == complete["pooled"]["all"][key]
        assert found["mean"]["all"][key] == complete["mean"]["all"][key]
    assert found["pooled"]["all"]["classwise_ece"]["b"] == complete["pooled"]["all"]["classwise_ece"]["b"]
    assert found["pooled"]["all"]["classwise_ece"]["a"] != complete["pooled"]["all"]["classwise_ece"]["a"]


def test_no_case_at_all_is_a_summary_without_numbers() -> None:
    refused = [{"case": "c1", "reason": "truncated", "message": "copy it again"}]
    found = summary([], expected=1, refused=refused)
    assert (found["n_expected"], found["n_scored"], found["refused"]) == (1, 0, refused)
    assert (found["pooled"], found["mean"], found["cases"]) == ({}, {}, {})


def test_composites_are_named_apart_from_classes() -> None:
    found = summary([score(0, composites={"ab": (1, 2)})])
    assert found["settings"]["classes"] == list(NAMES)
    assert found["settings"]["composites"] == ["ab"]
    assert set(found["cases"]["c0"]["dice"]) == {"a", "b", "c", "ab"}
    dice = found["cases"]["c0"]["dice"]
    assert found["mean"]["dice"]["foreground"]["value"] == pytest.approx((dice["a"] + dice["b"] + dice["c"]) / 3)


@pytest.mark.parametrize(
    ("names", "composites"), [(("background", "foreground", "b", "c"), {}), (NAMES, {"foreground": (1, 2)})]
)
def test_a_class_that_is_called_foreground_keeps_its_own_dice(
    names: tuple[str, ...], composites: dict[str, Any]
) -> None:
    case = score(0, class_names=names, composites=composites)
    found = summary([case])
    expected = float(case.overlap.dice()[case.channels.index("foreground")])
    assert found["mean"]["dice"]["foreground"]["value"] == pytest.approx(expected)


def test_the_known_posterior_adds_its_own_scores() -> None:
    probs, _ = CASES[0]
    found = summary([score(0, posterior=probs)])["pooled"]["all"]
    assert found["ece_true"] == pytest.approx(0, abs=1e-9)
    assert found["posterior_l1"] == 0
    assert "ece_true" not in summary([score(0)])["pooled"]["all"]


def test_a_case_without_a_posterior_does_not_hide_the_others() -> None:
    found = summary([score(0), score(1, posterior=CASES[1][0])])
    assert found["mean"]["all"]["posterior_l1"]["n"] == 1
    assert math.isclose(found["mean"]["all"]["posterior_l1"]["value"], 0)


def test_every_number_is_that_of_its_function() -> None:
    cases = [score(k, composites={"ab": (1, 2)}) for k in range(3)]
    found = summary(cases, bins=10)["pooled"]["boundary"]
    counts = sum(case.regions["boundary"].calibration for case in cases)
    assert isinstance(counts, CalibrationCounts)
    curve = counts.reliability(0, bins=10)
    assert found["rms_calibration_error"] == float(rms_calibration_error(curve))
    assert found["debiased_squared_error"] == float(debiased_squared_error(curve))
    assert found["accuracy"] == pytest.approx(float(curve.accuracy.sum() / curve.n.sum()))
    assert (found["aurc"], found["excess_aurc"]) == (aurc(counts), excess_aurc(counts))
    overlap = uncertainty_error_overlap(counts)
    assert (found["uncertainty_error_overlap"], found["uncertainty_error_threshold"]) == overlap
    last = (*NAMES, "ab").index("ab")
    assert found["thresholded_ece"]["ab"] == float(thresholded_ece(counts, 10)[last])
    assert found["classwise_ace_bins"]["ab"] == counts.ace_bins(10, channel=last + 1)
    assert found["classwise_mce"]["c"] == counts.mce(10, channel=4)
    assert found["classwise_debiased_squared_error"]["a"] == pytest.approx(
        float(debiased_squared_error(counts.reliability(2, bins=10))), abs=1e-15
    )
    assert found["classwise_brier"]["ab"] == pytest.approx(float(classwise_brier(counts)[last]), abs=1e-15)
    parts = brier_parts(counts, 10)
    assert found["brier_parts"]["b"] == {
        name: float(getattr(parts, name)[2])
        for name in ("reliability", "resolution", "uncertainty", "within_variance", "within_covariance")
    }
    assert found["qu_brats"]["ab"] == {name: values[last] for name, values in qu_brats(counts)._asdict().items()}


def test_nested_numbers_are_averaged_over_cases_with_their_own_counts() -> None:
    cases = [score(0), score(1), score(2, labels=torch.zeros_like(CASES[2][1]))]
    found = summary(cases)
    mean = found["mean"]["all"]["qu_brats"]["a"]["score"]
    single = [found["cases"][f"c{k}"]["regions"]["all"]["qu_brats"]["a"]["score"] for k in range(3)]
    assert (mean["n"], mean["value"]) == (3, pytest.approx(np.mean(single)))
    assert found["mean"]["recall"]["a"]["n"] == 2
    assert found["mean"]["precision"]["a"]["n"] == 3
    assert found["mean"]["gt_foreground"]["brier_parts"]["a"]["reliability"]["n"] == 2
    volume = found["mean"]["volume_ml"]["b"]
    assert "dependent_low" not in volume
    inside = [found["cases"][f"c{k}"]["volume_ml"]["b"]["inside_dependent"] for k in range(3)]
    assert volume["inside_dependent"]["value"] == pytest.approx(np.mean(inside))


def test_overlap_is_pooled_over_the_cases_that_label_a_class() -> None:
    cases = [score(0), score(1), score(2, labelled_classes=["a", "c"])]
    found = summary(cases)["pooled_overlap"]
    every = cases[0].overlap + cases[1].overlap + cases[2].overlap
    assert found["dice"]["a"] == float(every.dice()[1])
    known: OverlapCounts = cases[0].overlap + cases[1].overlap
    for name in ("dice", "iou", "precision", "recall"):
        assert found[name]["b"] == float(getattr(known, name)()[2])
    assert "background" not in found["dice"]


def test_protocols_have_their_mean_their_cases_and_their_words() -> None:
    cases = [score(k, protocols=tuple(PROTOCOLS)) for k in range(3)]
    found = summary(cases)["protocols"]
    assert list(found) == list(PROTOCOLS)
    for name, entry in found.items():
        assert entry["mean"] == protocol_mean(name, [dict(case.protocols[name]) for case in cases])
        assert entry["cases"].keys() == {"c0", "c1", "c2"}
        assert not any(key.startswith("bins/") for key in entry["cases"]["c0"])
        assert (
            "arXiv" in entry["definition"]
            or "MONAI" in entry["definition"]
            or "Bala93" in entry["definition"]
            or ("SVLS" in entry["definition"])
        )
    assert summary([score(0)])["protocols"] == {}


def test_a_region_model_has_numbers_by_channel_and_null_for_the_top_label() -> None:
    cases = []
    for k in range(3):
        probs, labels = CASES[k]
        channels = torch.stack([probs[1:].sum(0).clamp(max=1), probs[3]])
        options = {"activation": "sigmoid", "groups": ((1, 2, 3), (3,)), "composites": {"all of it": (1, 2, 3)}}
        cases.append(score_case(channels, labels, case_id=f"c{k}", class_names=NAMES, **options))  # type: ignore[arg-type]
    found = summary(cases)
    assert found["settings"]["independent_channels"] is True
    assert found["settings"]["classes"] == ["background", "all of it", "c"]
    for numbers in (found["pooled"]["all"], found["cases"]["c0"]["regions"]["all"]):
        for key in ("ece", "ace_bins", "mce", "brier", "nll", "gap", "accuracy", "aurc", "uncertainty_error_overlap"):
            assert numbers[key] is None, key
        assert numbers["classwise_ece"]["background"] is None
        for key in ("classwise_ece", "classwise_brier", "thresholded_ece"):
            assert numbers[key]["c"] > 0
    assert found["pooled"]["all"]["voxels"] == 3 * CASES[0][1].numel()
    assert found["mean"]["dice"]["foreground"]["n"] == 3
    assert found["mean"]["surface_dice"]["c"]["n"] == found["mean"]["hd95_mm"]["c"]["n"] == 3


def test_masks_and_widths_are_in_the_settings_and_warnings_with_their_case() -> None:
    mask = torch.ones_like(CASES[0][1], dtype=torch.bool)
    case = score(0, masks={"lung": mask}, boundary_mm=2.0, surface_tolerance_mm=0.5, warnings=["float16_probabilities"])
    found = summary([case])
    assert found["settings"]["regions"]["lung"] == "a mask of the user's"
    assert (found["settings"]["boundary_mm"], found["settings"]["surface_tolerance_mm"]) == (2.0, 0.5)
    assert found["cases"]["c0"]["warnings"] == ["float16_probabilities"]
    assert "warnings" not in summary([score(0)])["cases"]["c0"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"boundary_mm": 1.0}, "c1 differs from c0 in settings"),
        ({"regions": ["all"]}, "c1 differs from c0 in regions: all instead of all, foreground"),
        ({"class_names": "wxyz"}, "c1 differs from c0 in channels"),
    ],
)
def test_cases_that_were_scored_differently_are_not_joined(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        summary([score(0), score(1, **options)])
