"""Channels in another order than the classes are named; a bad network is not accused of it."""

from __future__ import annotations

import numpy as np
import pytest

from medcalib.data.predictions import class_order_problem

HEART = ["background", "RV", "MYO", "LV"]
# voxels, reference x prediction, of the size of an ACDC case: a good network
GOOD = np.array(
    [[600000, 900, 700, 150], [800, 9000, 200, 20], [600, 250, 8200, 500], [60, 10, 400, 9500]],
    np.int64,
)


def renamed(confusion: np.ndarray, order: list[int]) -> np.ndarray:
    """The same segmentation, with class k predicted under the name of class order[k]."""
    return confusion[:, np.argsort(order)]


def test_a_good_network_has_no_problem() -> None:
    assert class_order_problem(GOOD, HEART) is None


@pytest.mark.fault(46)
def test_46_two_classes_of_similar_size_that_are_swapped_are_named() -> None:
    text = class_order_problem(renamed(GOOD, [0, 3, 2, 1]), HEART)
    assert text is not None
    assert "RV is found as LV (Dice 0.89)" in text
    assert "LV is found as RV (Dice 0.94)" in text
    assert "MYO" not in text
    assert "mean Dice is 0.00" in text


@pytest.mark.fault(46)
@pytest.mark.parametrize("order", [[1, 2, 3, 0], [3, 0, 1, 2], [0, 2, 3, 1], [1, 0, 2, 3], [0, 2, 1, 3]])
def test_46_every_permutation_is_found(order: list[int]) -> None:
    text = class_order_problem(renamed(GOOD, order), HEART)
    assert text is not None
    for k, new in enumerate(order):
        assert (f"{HEART[k]} is found as {HEART[new]}" in text) == (k != new)


@pytest.mark.fault(46)
def test_46_two_classes_and_a_turned_background_are_found() -> None:
    assert class_order_problem([[2000, 90000], [4000, 300]], ["background", "tumor"]) is not None


BAD = {
    "spreads every class": [[500000, 9000, 9000, 9000], *([[3000, 2000, 2000, 2000]] * 3)],
    "finds nothing": [[500000, 0, 0, 0], [9000, 0, 0, 0], [8000, 0, 0, 0], [9000, 0, 0, 0]],
    "draws one class for all": [[500000, 9000, 0, 0], [0, 9000, 0, 0], [0, 8000, 0, 0], [0, 9000, 0, 0]],
    "takes the edge of one for the other": [
        [600000, 0, 900, 150], [0, 9000, 200, 20], [600, 250, 900, 8500], [60, 10, 400, 9500]],
    "mistakes half of two classes": [
        [600000, 900, 700, 150], [800, 4500, 200, 4500], [600, 250, 8200, 500], [60, 4500, 400, 5000]],
}  # fmt: skip


@pytest.mark.parametrize("kind", BAD)
def test_a_bad_network_is_no_wrong_order(kind: str) -> None:
    assert class_order_problem(BAD[kind], HEART) is None


def test_one_class_that_is_taken_for_an_absent_one_is_no_evidence_of_an_order() -> None:
    confusion = np.array([[600000, 0, 90], [0, 0, 0], [80, 900, 0]])
    assert class_order_problem(confusion, ["background", "ED", "ET"]) is None


def test_classes_of_a_few_voxels_are_no_evidence() -> None:
    confusion = np.array([[600000, 0, 0], [0, 0, 19], [0, 19, 0]])
    assert class_order_problem(confusion, ["background", "a", "b"]) is None
    assert class_order_problem(confusion * 2, ["background", "a", "b"]) is not None


def from_dice(own: list[float], new: list[float]) -> np.ndarray:
    """Foreground classes of 1000 voxels: class k is drawn with Dice own[k] as itself, new[k] as the next one."""
    classes = len(own)
    confusion = np.zeros((classes + 1, classes + 1), np.int64)
    confusion[0, 0] = 100_000
    for k in range(classes):
        confusion[k + 1, k + 1] = round(1000 * own[k])
        confusion[k + 1, (k + 1) % classes + 1] = round(1000 * new[k])
    confusion[1:, 0] = 1000 - confusion[1:, 1:].sum(1)
    confusion[0, 1:] = 1000 - confusion[1:, 1:].sum(0)
    return confusion


@pytest.mark.parametrize(
    ("own", "new", "wrong"),
    [
        ([0.05, 0.05], [0.9, 0.9], True),
        ([0.05, 0.05], [0.6, 0.55], True),
        ([0.0, 0.0], [0.9, 0.2], False),  # one class alone
        ([0.3, 0.3], [0.6, 0.6], False),  # half found
        ([0.02] * 6, [0.6, 0.6, 0.1, 0.1, 0.1, 0.1], False),  # most fit no name
        ([0.0, 0.0], [0.45, 0.45], False),
    ],
)
def test_the_thresholds_are_those_of_the_docstring(own: list[float], new: list[float], wrong: bool) -> None:
    names = ["background", *(f"c{k}" for k in range(len(own)))]
    assert (class_order_problem(from_dice(own, new), names) is not None) == wrong


def test_classes_that_were_not_found_at_all_do_not_hide_a_swap() -> None:
    confusion = np.zeros((6, 6), np.int64)
    confusion[:, 0] = 100_000, 50, 900, 900, 900, 50
    confusion[1, 5] = confusion[5, 1] = 900
    text = class_order_problem(confusion, [f"c{k}" for k in range(6)])
    assert text is not None
    assert "c1 is found as c5 (Dice 0.97), c5 is found as c1 (Dice 0.97), while" in text


def test_absent_classes_and_an_empty_case_keep_their_names() -> None:
    assert class_order_problem(np.zeros((4, 4), np.int64), HEART) is None
    only = np.diag([600000, 0, 0, 900])
    assert class_order_problem(only, HEART) is None


@pytest.mark.fault(46)
def test_a_rolled_order_is_found_among_classes_of_which_some_are_hard() -> None:
    rng = np.random.default_rng(0)
    sizes = np.array([5_000_000, 300_000, 40_000, 40_000, 20_000, 15_000, 12_000, 600, 500, 3000])
    hits = np.array([0.99, 0.95, 0.9, 0.9, 0.8, 0.7, 0.8, 0.3, 0.2, 0.6])
    confusion = np.diag((sizes * hits).astype(np.int64))
    confusion[:, 0] += (sizes * (1 - hits)).astype(np.int64)
    confusion += rng.integers(0, 50, confusion.shape)
    assert class_order_problem(confusion, [f"c{k}" for k in range(10)]) is None
    assert class_order_problem(np.roll(confusion, 1, 1), [f"c{k}" for k in range(10)]) is not None
