"""Calibration counts: hand-computed voxels, a float64 oracle, the laws of addition, published traps."""

from __future__ import annotations

import math
from fractions import Fraction

import numpy as np
import pytest
import torch
from helpers import smooth_case
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from medcalib.metrics import CalibrationCounts
from medcalib.ops.scoring import (
    FIRST_ABOVE_THRESHOLD,
    NUM_CELLS,
    bin_of_cell,
    cell_index,
    from_limbs,
    score_voxels,
)


def oracle_ece(confidence: np.ndarray, hit: np.ndarray, bins: int, edges: str = "right") -> float:
    """ECE in float64 with correctly rounded sums; float32 values times at most 300 are exact in float64."""
    scaled = confidence.astype(np.float64) * bins
    index = np.ceil(scaled) - 1 if edges == "right" else np.floor(scaled)
    index = np.clip(index, 0, bins - 1).astype(int)
    gaps = [abs(math.fsum(confidence[index == b].astype(np.float64)) - hit[index == b].sum()) for b in range(bins)]
    return math.fsum(gaps) / confidence.size


def two_class(confidences: list[float], hits: list[int]) -> CalibrationCounts:
    """Counts of voxels whose predicted class is 1 with these confidences (all above 1/2)."""
    p = torch.tensor(confidences, dtype=torch.float64)
    return CalibrationCounts.from_probs(torch.stack([1 - p, p])[None], torch.tensor(hits)[None])


def test_four_voxels_by_hand() -> None:
    """0.9, 0.9 with one hit; 0.6, 0.6 with two hits: gaps 0.8 and 0.8 over four voxels."""
    counts = two_class([0.9, 0.9, 0.6, 0.6], [1, 0, 1, 1])
    assert counts.ece(bins=10) == pytest.approx((0.8 + 0.8) / 4, abs=1e-14)
    assert counts.ace_bins(bins=10) == pytest.approx((0.4 + 0.4) / 2, abs=1e-14)
    assert counts.mce(bins=10) == pytest.approx(0.4, abs=1e-14)
    assert counts.classwise_ece(bins=10).tolist() == pytest.approx([0.4, 0.4], abs=1e-13)


@pytest.mark.fault(54)
@pytest.mark.parametrize("edges", ["right", "left"])
def test_a_confidence_on_an_edge_follows_the_edge_rule(edges: str) -> None:
    """0.5 ends the first of two bins under (a, b] and starts the second under [a, b); 1.0 is in the last."""
    p = torch.tensor([0.5, 0.5, 0.5])
    counts = CalibrationCounts.from_probs(torch.stack([p, 1 - p])[None], torch.zeros(1, 3, dtype=torch.long))
    assert counts.reliability(0, bins=2, edges=edges).n.tolist() == ([3, 0] if edges == "right" else [0, 3])
    p = torch.tensor([1.0, 0.75, 0.75 - 2**-24])
    counts = CalibrationCounts.from_probs(torch.stack([p, 1 - p])[None], torch.zeros(1, 3, dtype=torch.long))
    at = counts.reliability(0, bins=20, edges=edges).n
    assert at[[14, 15, 19]].tolist() == ([2, 0, 1] if edges == "right" else [1, 1, 1])


@pytest.mark.fault(54)
@pytest.mark.parametrize("bins", [1, 2, 3, 4, 5, 10, 12, 15, 20, 25, 30, 50, 60, 75, 100, 150, 300])
@pytest.mark.parametrize("edges", ["right", "left"])
def test_cells_refine_every_bin_count_exactly(bins: int, edges: str) -> None:
    dyadic = np.arange(0, 257) / 256
    votes = np.float32(np.arange(0, 11) / 10)
    tiny = np.float32(2.0) ** -np.arange(1, 30, dtype=np.float32)
    p = np.concatenate(
        [dyadic.astype(np.float32), votes, tiny, 1 - tiny, np.random.default_rng(0).random(5000, np.float32)]
    )
    p = np.sort(p)
    cells = cell_index(p)
    assert (np.diff(cells) >= 0).all()
    assert (cells.min(), cells.max()) == (0, NUM_CELLS - 1)
    scaled = [Fraction(float(v)) * bins for v in p]
    expected = [math.ceil(s) - 1 if edges == "right" else math.floor(s) for s in scaled]
    assert bin_of_cell(bins, edges)[cells].tolist() == [min(max(b, 0), bins - 1) for b in expected]


def test_the_threshold_lies_between_two_cells() -> None:
    at = np.float32(1e-3)
    below_to_above = np.array([at * np.float32(0.99), at, np.nextafter(at, np.float32(1)), 2.0**-9], np.float32)
    counted = cell_index(below_to_above) >= FIRST_ABOVE_THRESHOLD
    assert counted.tolist() == [False, False, True, True]


def test_squares_are_summed_to_the_last_bit() -> None:
    p = np.random.default_rng(0).random((3, 1000), np.float32)
    tables = score_voxels(
        torch.from_numpy(p), torch.zeros(1000, dtype=torch.uint8), torch.ones(1, 1000).bool(), composites=[(1, 2)]
    )
    exact = [sum(Fraction(float(v)) ** 2 for v in channel) for channel in (p.max(0), *p)]
    high, low = tables.square[0].T
    assert from_limbs(high, low)[:4].tolist() == pytest.approx([float(x) for x in exact], rel=1e-14)


@pytest.mark.fault(55)
def test_pooled_ece_of_2_to_25_voxels_in_one_bin_is_exact() -> None:
    """Float32 counters stop at 2^24 here; the common libraries print 0.028 for 0.0145 on such data."""
    n = 1 << 25
    rng = np.random.default_rng(0)
    confidence = (0.998 + 0.002 * rng.random(n, np.float32)).clip(max=1.0)
    hit = rng.random(n, np.float32) < 0.9975
    p = torch.from_numpy(confidence)
    counts = CalibrationCounts.zeros(2)
    for part in torch.arange(n).chunk(4):
        probs = torch.stack([p[part], 1 - p[part]])[None]
        counts += CalibrationCounts.from_probs(probs, torch.from_numpy(~hit[part.numpy()])[None].to(torch.uint8))
    assert counts.voxels() == n
    assert int(counts.correct[0].sum()) == int(hit.sum())
    assert counts.ece(15) == pytest.approx(oracle_ece(confidence, hit, 15), abs=1e-12)


def background_heavy(side: int, amount: float) -> tuple[Tensor, Tensor]:
    """A sharp four-class prediction of a sphere in a cube, label-smoothed by `amount`, with 4 % wrong labels."""
    axis = torch.linspace(-1, 1, side)
    radius = (axis[:, None, None] ** 2 + axis[None, :, None] ** 2 + axis[None, None] ** 2).sqrt()
    inner = ((0.45 - radius) * 40).sigmoid()
    probs = torch.stack([1 - inner, inner * 0.7, inner * 0.2, inner * 0.1]) * (1 - amount) + amount / 4
    labels = (radius < 0.45).to(torch.uint8)
    labels[torch.from_numpy(np.random.default_rng(1).random(radius.shape)) < 0.01] = 2
    return probs[None], labels[None]


@pytest.mark.parametrize("edges", ["right", "left"])
def test_a_label_smoothed_128_cube_equals_the_float64_oracle(edges: str) -> None:
    """The case on which a float32 sum prints a tenth of the truth: 128^3 voxels smoothed by 0.01."""
    probs, labels = background_heavy(128, 0.01)
    counts = CalibrationCounts.from_probs(probs, labels)
    confidence, predicted = probs[0].max(0)
    hit = (predicted == labels[0]).numpy().ravel()
    assert counts.ece(15, edges) == pytest.approx(oracle_ece(confidence.numpy().ravel(), hit, 15, edges), abs=1e-12)
    expected = [oracle_ece(probs[0, k].numpy().ravel(), (labels[0] == k).numpy().ravel(), 15, edges) for k in range(4)]
    assert counts.classwise_ece(15, edges).tolist() == pytest.approx(expected, abs=1e-12)


def test_monai_is_wrong_on_this_volume_and_we_are_not() -> None:
    """The reason this module exists, shown: if MONAI is ever corrected, this test says so."""
    from monai.metrics import CalibrationErrorMetric

    probs, labels = background_heavy(128, 0.01)
    confidence, predicted = probs.max(1, keepdim=True)
    hit = (predicted[:, 0] == labels).float()[:, None]
    metric = CalibrationErrorMetric(num_bins=15, include_background=True)
    metric(confidence, hit)
    truth = oracle_ece(confidence.numpy().ravel(), hit.numpy().ravel() > 0, 15)
    assert abs(float(metric.aggregate()) - truth) > 0.2 * truth
    assert CalibrationCounts.from_probs(probs, labels).ece(15, "left") == pytest.approx(truth, abs=1e-9)


def parts() -> list[CalibrationCounts]:
    return [CalibrationCounts.from_probs(p[None], y[None]) for p, y in (smooth_case(seed) for seed in range(5))]


def same(a: CalibrationCounts, b: CalibrationCounts) -> bool:
    return all(torch.equal(x, y) for x, y in zip(vars(a).values(), vars(b).values(), strict=True) if x is not None)


@settings(max_examples=20, deadline=None)
@given(order=st.permutations(range(5)), cut=st.integers(1, 4))
def test_merging_in_any_order_and_grouping_gives_the_same_bits(order: list[int], cut: int) -> None:
    every = parts()
    whole = sum(every[1:], every[0])
    left = sum((every[i] for i in order[:cut]), CalibrationCounts.zeros(4))
    right = sum((every[i] for i in order[cut:]), CalibrationCounts.zeros(4))
    assert same(whole, right + left)


def test_slabs_and_batches_give_the_same_bits_as_the_whole() -> None:
    probs, labels = background_heavy(96, 0.02)
    whole = CalibrationCounts.from_probs(probs, labels)
    halves = [
        CalibrationCounts.from_probs(probs[:, :, part], labels[:, part]) for part in (slice(0, 31), slice(31, 96))
    ]
    assert same(whole, halves[0] + halves[1])


def test_zeros_is_neutral() -> None:
    counts = parts()[0]
    assert same(counts + CalibrationCounts.zeros(4), counts)
    assert math.isnan(CalibrationCounts.zeros(4).ece())
    assert math.isnan(CalibrationCounts.zeros(4).ece_equal_mass())
    assert CalibrationCounts.zeros(4).classwise_ece().isnan().all()


def test_voxel_order_does_not_matter() -> None:
    probs, labels = smooth_case(3)
    flat, flat_labels = probs.reshape(4, -1), labels.reshape(-1)
    order = torch.from_numpy(np.random.default_rng(0).permutation(flat.shape[1]))
    a = CalibrationCounts.from_probs(flat[None], flat_labels[None])
    b = CalibrationCounts.from_probs(flat[None][:, :, order], flat_labels[None][:, order])
    assert same(a, b)


def test_mask_and_ignored_voxels_are_left_out() -> None:
    probs, labels = smooth_case(1)
    keep = torch.rand(labels.shape, generator=torch.Generator().manual_seed(0)) < 0.5
    expected = CalibrationCounts.from_probs(probs[:, keep][None], labels[keep][None])
    assert same(CalibrationCounts.from_probs(probs[None], labels[None], mask=keep[None]), expected)
    ignored = labels.clone()
    ignored[~keep] = 255
    assert same(CalibrationCounts.from_probs(probs[None], ignored[None], ignore_index=255), expected)


def test_logits_are_their_softmax() -> None:
    probs, labels = smooth_case(2)
    logits = probs.double().log()
    a = CalibrationCounts.from_logits(logits[None], labels[None])
    b = CalibrationCounts.from_probs(logits.softmax(0)[None], labels[None])
    assert a.ece() == pytest.approx(b.ece(), abs=1e-14)
    shifted = CalibrationCounts.from_logits(logits[None] + 1000, labels[None])
    assert shifted.ece() == pytest.approx(a.ece(), abs=1e-9)


def test_labels_drawn_from_the_probabilities_are_calibrated() -> None:
    """And the true error against the probabilities themselves is 0, below the estimate that labels give."""
    probs, labels = smooth_case(0, shape=(64, 64, 32))
    counts = CalibrationCounts.from_probs(probs[None], labels[None], posterior=probs[None])
    assert counts.ece(15) < 0.01
    assert counts.ece(15, true=True) < 1e-12
    sharp = (probs**2) / (probs**2).sum(0)
    assert counts.has_posterior is True
    assert CalibrationCounts.from_probs(probs[None], labels[None]).has_posterior is False
    over = CalibrationCounts.from_probs(sharp[None], labels[None], posterior=probs[None])
    assert over.ece(15) > 0.05
    assert over.ece(15, true=True) == pytest.approx(over.ece(15), abs=0.01)


def test_equal_mass_bins_by_hand() -> None:
    """Eight confidences in four bins of two: gaps -0.85, 1.35, -0.45 and 1.75 of 8 voxels."""
    top = torch.arange(55, 95, 5).double() / 100
    labels = torch.tensor([0, 0, 1, 1, 0, 0, 1, 1])
    counts = CalibrationCounts.from_probs(torch.stack([top, 1 - top])[None], labels[None])
    assert counts.ece_equal_mass(4) == pytest.approx((0.85 + 1.35 + 0.45 + 1.75) / 8, abs=1e-12)
    assert counts.ece_equal_mass(2) == pytest.approx((0.5 + 1.3) / 8, abs=1e-12)


def test_equal_mass_bins_hold_equal_mass_where_cells_allow() -> None:
    p = torch.linspace(0.5, 1, 30001, dtype=torch.float64)[1:]
    labels = (torch.rand(p.shape, generator=torch.Generator().manual_seed(0)) < p * 0.9).long()
    counts = CalibrationCounts.from_probs(torch.stack([1 - p, p])[None], labels[None])
    confidence, hit = np.sort(p.numpy()), labels.numpy()
    groups = np.array_split(np.arange(30000), 15)
    expected = sum(abs(confidence[g].sum() - hit[g].sum()) for g in groups) / 30000
    assert counts.ece_equal_mass(15) == pytest.approx(expected, abs=2e-3)


def test_rounding_beyond_one_is_clamped() -> None:
    """Averages of float32 probabilities often end at 1 + 1e-7."""
    _, labels = smooth_case()
    over = torch.nn.functional.one_hot(labels.long(), 4).movedim(-1, 0).float()
    exact = CalibrationCounts.from_probs(over[None], labels[None])
    assert same(CalibrationCounts.from_probs(over[None] * (1 + 2e-7), labels[None]), exact)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda p: p.index_fill(1, torch.tensor([0]), float("nan")), "NaN"),
        (lambda p: p * 1.2, "lie in"),
        (lambda p: p * 0.9, "sum to 1"),
        (lambda p: p * 8 - 4, "logits"),
    ],
)
def test_bad_probabilities_are_refused(change: object, words: str) -> None:
    probs, labels = smooth_case()
    with pytest.raises(ValueError, match=words):
        CalibrationCounts.from_probs(change(probs)[None], labels[None])  # type: ignore[operator]


def test_bad_labels_shapes_and_bins_are_refused() -> None:
    probs, labels = smooth_case()
    with pytest.raises(ValueError, match="ignore_index"):
        CalibrationCounts.from_probs(probs[None], labels[None] + 200)
    with pytest.raises(ValueError, match="expected labels"):
        CalibrationCounts.from_probs(probs[None], labels)
    with pytest.raises(ValueError, match="bins must be one of"):
        CalibrationCounts.from_probs(probs[None], labels[None]).ece(7)
    with pytest.raises(ValueError, match="known posterior"):
        CalibrationCounts.from_probs(probs[None], labels[None]).ece(true=True)
    with pytest.raises(ValueError, match="different classes"):
        _ = CalibrationCounts.from_probs(probs[None], labels[None]) + two_class([0.9], [1])


@pytest.mark.fault(55)
def test_the_accuracy_is_exact_beyond_float32() -> None:
    labels = torch.zeros(1, 3_000_001, dtype=torch.uint8)
    labels[0, :1_000_000] = 1
    probs = torch.tensor([0.75, 0.25])[None, :, None].expand(1, 2, labels.shape[1])
    assert CalibrationCounts.from_probs(probs, labels).accuracy() == 2_000_001 / 3_000_001
