"""Dice, IoU, precision and recall by hand; absent classes are NaN and never perfect."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from medcalib.metrics import CalibrationCounts, OverlapCounts

#        predicted:  bg  a  b  c(never)
CONFUSION = torch.tensor([[5, 1, 0, 0], [2, 3, 1, 0], [0, 0, 0, 0], [0, 0, 0, 0]])  # reference in rows


def confusion_of(labels: np.ndarray, predicted: np.ndarray, classes: int) -> torch.Tensor:
    return torch.from_numpy(np.bincount(labels * classes + predicted, minlength=classes**2).reshape(classes, classes))


def test_scores_by_hand() -> None:
    """a: 3 hits, 1 false alarm, 3 misses. b is predicted once and is not there. c is nowhere."""
    counts = OverlapCounts.from_confusion(CONFUSION)
    assert [t.tolist() for t in (counts.tp, counts.fp, counts.fn)] == [[5, 3, 0, 0], [2, 1, 1, 0], [1, 3, 0, 0]]
    assert counts.dice().tolist() == pytest.approx([10 / 13, 6 / 10, 0, math.nan], nan_ok=True)
    assert counts.iou().tolist() == pytest.approx([5 / 8, 3 / 7, 0, math.nan], nan_ok=True)
    assert counts.precision().tolist() == pytest.approx([5 / 7, 3 / 4, 0, math.nan], nan_ok=True)
    assert counts.recall().tolist() == pytest.approx([5 / 6, 3 / 6, math.nan, math.nan], nan_ok=True)


def test_a_composite_is_the_union_of_its_classes() -> None:
    """Inside {a, b}, a taken for b is a hit."""
    counts = OverlapCounts.from_confusion(CONFUSION, [(1, 2), (1,)])
    assert [int(t[4]) for t in (counts.tp, counts.fp, counts.fn)] == [4, 1, 2]
    assert counts.dice()[5] == counts.dice()[1]


def test_a_binary_channel_is_predicted_above_one_half_and_not_at_it() -> None:
    """Foreground with 0.2, 0.5, 0.6, 0.9; it is there at 0.5 and 0.9. The background is predicted at 0.8 only."""
    foreground = torch.tensor([0.2, 0.5, 0.6, 0.9], dtype=torch.float64)
    probs = torch.stack([1 - foreground, foreground])[None]
    found = OverlapCounts.from_counts(CalibrationCounts.from_probs(probs, torch.tensor([[0, 1, 0, 1]])))
    assert [t.tolist() for t in (found.tp, found.fp, found.fn)] == [[1, 1], [0, 1], [1, 1]]


def test_no_voxel_is_no_score() -> None:
    zero = OverlapCounts.zeros(3)
    assert all(torch.isnan(score()).all() for score in (zero.dice, zero.iou, zero.precision, zero.recall))


@given(st.integers(0, 999), st.integers(1, 300))
@settings(max_examples=50, deadline=None)
def test_laws(seed: int, voxels: int) -> None:
    rng = np.random.default_rng(seed)
    labels, predicted = rng.integers(0, 4, (2, voxels))
    counts = OverlapCounts.from_confusion(confusion_of(labels, predicted, 4))
    swapped = OverlapCounts.from_confusion(confusion_of(predicted, labels, 4))
    assert torch.equal(counts.dice().nan_to_num(-1), swapped.dice().nan_to_num(-1))
    assert torch.equal(counts.precision().nan_to_num(-1), swapped.recall().nan_to_num(-1))
    dice = counts.dice()
    assert torch.allclose(counts.iou(), dice / (2 - dice), equal_nan=True)
    part = voxels // 3
    summed = sum(
        (
            OverlapCounts.from_confusion(confusion_of(labels[s], predicted[s], 4))
            for s in (slice(part), slice(part, None))
        ),
        OverlapCounts.zeros(4),
    )
    assert all(torch.equal(getattr(summed, name), getattr(counts, name)) for name in ("tp", "fp", "fn"))
    expected = [
        2 * ((labels == k) & (predicted == k)).sum() / n
        if (n := (labels == k).sum() + (predicted == k).sum())
        else math.nan
        for k in range(4)
    ]
    assert dice.tolist() == pytest.approx(expected, nan_ok=True)


def test_a_perfect_prediction_scores_one_where_the_class_is_there() -> None:
    labels = np.array([0, 0, 2, 2])
    dice = OverlapCounts.from_confusion(confusion_of(labels, labels, 3)).dice()
    assert dice.tolist() == pytest.approx([1, math.nan, 1], nan_ok=True)
