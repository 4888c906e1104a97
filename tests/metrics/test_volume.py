"""Volumes in ml and their intervals, against numpy and against simulation."""

from __future__ import annotations

import math

import numpy as np
import pytest
from helpers import smooth_case

from medcalib.metrics import CaseScores, score_case

SPACING = (1.5, 2.0, 5.0)
ML = 1.5 * 2.0 * 5.0 / 1000


def scored(seed: int = 0, **options: object) -> tuple[CaseScores, np.ndarray, np.ndarray]:
    probs, labels = smooth_case(seed)
    options = {"case_id": "x", "class_names": "abcd", "distances": False, "spacing_mm": SPACING} | options
    return score_case(probs, labels, **options), probs.double().numpy(), labels.numpy()  # type: ignore[arg-type]


@pytest.mark.parametrize("regions", [("all", "foreground"), ("gt_foreground",)])
def test_volumes_are_those_of_all_voxels_whatever_the_regions(regions: tuple[str, ...]) -> None:
    case, p, y = scored(regions=regions, composites={"u": (1, 2)})
    p = np.concatenate([p, p[1:3].sum(0)[None]])
    predicted = [p[:4].argmax(0) == k for k in range(4)] + [np.isin(p[:4].argmax(0), (1, 2))]
    for k, reference in enumerate([y == 0, y == 1, y == 2, y == 3, np.isin(y, (1, 2))]):
        found = case.volumes.in_ml(k, SPACING)
        assert found["reference"] == pytest.approx(reference.sum() * ML)
        assert found["predicted"] == pytest.approx(predicted[k].sum() * ML)
        assert found["expected"] == pytest.approx(p[k].sum() * ML, abs=1e-9)
        assert found["error"] == pytest.approx(found["predicted"] - found["reference"])
        assert found["absolute_error"] == abs(found["error"])
        assert found["expected_error"] == pytest.approx(found["expected"] - found["reference"])
        spread = 1.959964 * math.sqrt((p[k] * (1 - p[k])).sum())
        assert found["independent_low"] == pytest.approx((p[k].sum() - spread) * ML, rel=1e-6)
        assert found["independent_high"] == pytest.approx((p[k].sum() + spread) * ML, rel=1e-6)
        assert found["dependent_low"] == pytest.approx((p[k] > 293 / 300).sum() * ML)
        assert found["dependent_high"] == pytest.approx((p[k] > 7 / 300).sum() * ML)
        for kind in ("independent", "dependent"):
            assert found[f"inside_{kind}"] == (found[f"{kind}_low"] <= found["reference"] <= found[f"{kind}_high"])


def test_each_interval_covers_what_it_assumes() -> None:
    """Volumes drawn from the probabilities, voxels independent or all from one number: at least 95 % lie inside
    (2000 draws: 3 standard errors are 1.5 %); independent draws fill the normal interval, not more."""
    case, p, _ = scored(1)
    rng = np.random.default_rng(0)
    found = case.volumes.in_ml(2, SPACING)
    flat = p[2].ravel()
    independent = np.array([(rng.random(flat.size) < flat).sum() for _ in range(2000)]) * ML
    dependent = np.array([(flat > u).sum() for u in rng.random(2000)]) * ML
    inside = (found["independent_low"] <= independent) & (independent <= found["independent_high"])
    assert 0.935 < inside.mean() < 0.965
    inside = (found["dependent_low"] <= dependent) & (dependent <= found["dependent_high"])
    assert 0.935 < inside.mean() < 0.975
    assert found["dependent_high"] - found["dependent_low"] > 5 * (found["independent_high"] - found["independent_low"])


def test_ignored_voxels_have_no_volume() -> None:
    probs, labels = smooth_case(0)
    labels[:10] = 255
    case = score_case(probs, labels, case_id="x", class_names="abcd", distances=False, ignore_index=255)
    cut = score_case(probs[:, 10:], labels[10:], case_id="x", class_names="abcd", distances=False)
    assert case.volumes.in_ml(1, SPACING) == cut.volumes.in_ml(1, SPACING)
