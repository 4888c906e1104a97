"""The QU-BraTS score against filtering voxel by voxel."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from helpers import smooth_case

from medcalib.metrics import CalibrationCounts, score_case
from medcalib.metrics.qu_brats import qu_brats


def by_voxel(p: np.ndarray, y: np.ndarray) -> dict[str, float]:
    """The challenge's definition with 51 thresholds, in exact arithmetic of float64."""
    predicted, dice, lost_tp, lost_tn = p > 0.5, [], [], []
    tp_before, tn_before = (predicted & y).sum(), (~predicted & ~y).sum()
    for t in range(0, 101, 2):
        kept = np.minimum(p, 1 - p) * 200 <= t  # float32 p: exact
        a, b = predicted & kept, y & kept
        dice.append(1.0 if not (a.any() or b.any()) else 2 * (a & b).sum() / (a.sum() + b.sum()))
        lost_tp.append((tp_before - (a & b).sum()) / tp_before if tp_before else 0.0)
        lost_tn.append((tn_before - (kept & ~predicted & ~y).sum()) / tn_before if tn_before else 0.0)
    areas = [np.trapezoid(v, np.linspace(0, 1, 51)) for v in (dice, lost_tp, lost_tn)]
    return {"score": (areas[0] + 2 - areas[1] - areas[2]) / 3} | dict(
        zip(("dice", "filtered_tp", "filtered_tn"), areas, strict=True)
    )


@pytest.mark.parametrize("sharpness", [1.0, 4.0, 30.0])
def test_agrees_with_filtering_voxel_by_voxel(sharpness: float) -> None:
    probs, labels = smooth_case(0, sharpness=sharpness)
    case = score_case(probs, labels, case_id="x", class_names="abcd", distances=False, composites={"bc": (1, 2)})
    found = qu_brats(case.regions["all"].calibration)._asdict()
    merged = probs[1].double() + probs[2].double()
    channels = [*((p.double(), labels == k) for k, p in enumerate(probs)), (merged, (labels == 1) | (labels == 2))]
    for k, (p, y) in enumerate(channels):
        for name, value in by_voxel(p.numpy().ravel(), y.numpy().ravel()).items():
            assert found[name][k] == pytest.approx(value, abs=1e-12), (k, name)


def test_a_perfect_and_certain_prediction_scores_1() -> None:
    labels = torch.tensor([[0, 0, 1, 1]])
    probs = torch.nn.functional.one_hot(labels, 2).movedim(-1, 1).float()
    found = qu_brats(CalibrationCounts.from_probs(probs, labels))
    assert found.score.tolist() == [1.0, 1.0]


def test_what_is_nowhere_has_no_score() -> None:
    probs = torch.tensor([[0.9, 0.8], [0.1, 0.2]])[None]
    found = qu_brats(CalibrationCounts.from_probs(probs, torch.zeros(1, 2, dtype=torch.uint8)))
    assert math.isnan(found.score[1])
    assert not math.isnan(found.score[0])
    assert np.isnan(qu_brats(CalibrationCounts.zeros(2)).score).all()
