"""Laws of counts over any probabilities: any order, any slabs and any grouping give the same bits; sums beyond 2^31."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise

import numpy as np
import pytest
import torch
from helpers import smooth_case
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from medcalib.metrics import CalibrationCounts

few = settings(max_examples=30, deadline=None, derandomize=True)


@st.composite
def predictions(draw: st.DrawFn) -> tuple[Tensor, Tensor, Tensor]:
    """probs (1, C, n) float32 or float64, labels (1, n) with ignored voxels, a mask (1, n)."""
    classes, voxels = draw(st.integers(2, 6)), draw(st.integers(1, 90))
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    logits = rng.standard_normal((1, classes, voxels)) * draw(st.sampled_from([0.0, 1.0, 8.0, 60.0]))
    probs = torch.from_numpy(logits).softmax(1).to(draw(st.sampled_from([torch.float32, torch.float64])))
    labels = rng.integers(0, classes, (1, voxels))
    labels[rng.random(labels.shape) < 0.2] = 255
    return probs, torch.from_numpy(labels), torch.from_numpy(rng.random((1, voxels)) < 0.7)


def counted(probs: Tensor, labels: Tensor, mask: Tensor) -> CalibrationCounts:
    return CalibrationCounts.from_probs(probs, labels, ignore_index=255, mask=mask)


def same(a: CalibrationCounts, b: CalibrationCounts) -> bool:
    return all(torch.equal(x, y) for x, y in zip(vars(a).values(), vars(b).values(), strict=True) if x is not None)


@given(case=predictions(), cuts=st.lists(st.integers(1, 89), max_size=4), seed=st.integers(0, 99))
@few
def test_slabs_in_any_order_and_grouping_give_the_bits_of_the_whole(
    case: tuple[Tensor, Tensor, Tensor], cuts: list[int], seed: int
) -> None:
    voxels, rng = case[1].shape[1], np.random.default_rng(seed)
    ends = sorted({0, voxels, *(cut for cut in cuts if cut < voxels)})
    slabs = [counted(*(t[..., a:b] for t in case)) for a, b in pairwise(ends)]
    while len(slabs) > 1:  # any two of them, in either order
        first, second = rng.choice(len(slabs), 2, replace=False)
        joined = slabs[first] + slabs[second]
        slabs = [slab for k, slab in enumerate(slabs) if k not in (first, second)] + [joined]
    assert same(slabs[0], counted(*case))


@given(case=predictions(), seed=st.integers(0, 99))
@few
def test_the_order_of_voxels_changes_no_bit(case: tuple[Tensor, Tensor, Tensor], seed: int) -> None:
    order = torch.from_numpy(np.random.default_rng(seed).permutation(case[1].shape[1]))
    assert same(counted(*(t[..., order] for t in case)), counted(*case))


@given(case=predictions(), seed=st.integers(0, 99))
@few
def test_a_mask_is_the_sum_of_its_parts(case: tuple[Tensor, Tensor, Tensor], seed: int) -> None:
    probs, labels, mask = case
    part = torch.from_numpy(np.random.default_rng(seed).random(mask.shape) < 0.5)
    assert same(
        counted(probs, labels, mask & part) + counted(probs, labels, mask & ~part), counted(probs, labels, mask)
    )


@given(case=predictions())
@few
def test_errors_lie_between_their_bounds(case: tuple[Tensor, Tensor, Tensor]) -> None:
    counts = counted(*case)
    assert counts.voxels() == int((case[2] & (case[1] != 255)).sum())
    if counts.voxels():
        gap = abs(float(case[0].double().max(1).values[case[2] & (case[1] != 255)].mean()) - counts.accuracy())
        assert gap - 1e-9 <= counts.ece(1) <= counts.ece(15) + 1e-9 <= counts.mce(15) + 2e-9 <= 1 + 3e-9


@pytest.mark.fault(55)
def test_more_than_2_to_31_voxels_are_counted_exactly(record_property: Callable[[str, object], None]) -> None:
    """A case added to itself 2^24 times: every count is that many times as large, and no number changes by a bit."""
    probs, labels = smooth_case(0)
    once = CalibrationCounts.from_probs(probs[None], labels[None])
    whole = once
    for _ in range(24):
        whole = whole + whole
    assert whole.voxels() == once.voxels() * 2**24 > 2**36
    assert torch.equal(whole.n, once.n * 2**24)
    assert int(whole.n.max()) > 2**31
    assert torch.equal(whole.correct, once.correct * 2**24)
    assert (whole.ece(15), whole.mce(15), whole.accuracy()) == pytest.approx(
        (once.ece(15), once.mce(15), once.accuracy()), rel=1e-15
    )
    record_property("measured", f"{whole.voxels():,} voxels, {int(whole.n.max()):,} in one cell: exact")
