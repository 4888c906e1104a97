"""The scorer against exact fractions and its own reference; the laws of slabs, threads and merging."""

from __future__ import annotations

import itertools
import math
from fractions import Fraction

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scoring_cases import IMPLEMENTATIONS, ISAS, NASTY, counted, probabilities, random_slab, running, same, value
from torch import Tensor

from medcalib.ops.scoring import NUM_CELLS, THRESHOLD, Scorer, ScoreTables, from_limbs, score_voxels

every = pytest.mark.parametrize("name", IMPLEMENTATIONS)
native = pytest.mark.parametrize("name", ISAS)
PLACES = 2**48


def exact_cell(p: Fraction) -> int:
    """The fine cell by comparing with its edges: 1/300 apart, and at powers of two in the first and last interval."""
    powers = [Fraction(1, 2**e) for e in range(9, 24)]
    if p in (0, 1):
        return 0 if p == 0 else NUM_CELLS - 1
    if p < Fraction(1, 300):
        return 1 + sum(edge <= p for edge in powers) + (p > Fraction(THRESHOLD))
    if p > Fraction(299, 300):
        return NUM_CELLS - 17 + sum(edge > 1 - p for edge in powers)
    return 2 * math.floor(300 * p) + ((300 * p).denominator != 1) + 16


def exact_tables(probs: Tensor, labels: Tensor, holds: Tensor) -> dict[str, object]:
    """n, correct, conf and square by (region, channel, cell) and the sums, in Python's integers and fractions."""
    found: dict[str, dict[tuple[int, ...], int]] = {key: {} for key in ("n", "correct", "conf", "square", "pairs")}
    brier = [Fraction(0)] * len(holds)
    nll = [0.0] * len(holds)

    def count(table: str, at: tuple[int, ...], amount: int) -> None:
        found[table][at] = found[table].get(at, 0) + amount

    for i, label in enumerate(labels.tolist()):
        p = [Fraction(float(v)) for v in probs[:, i]]
        predicted = p.index(max(p))
        for r in range(len(holds)):
            if not holds[r, i]:
                continue
            channels = [(p[predicted], predicted == label), *((v, k == label) for k, v in enumerate(p))]
            for channel, (v, hit) in enumerate(channels):
                at = (r, channel, exact_cell(v))
                count("n", at, 1)
                count("correct", at, int(hit))
                count("conf", at, round(v * PLACES))
                count("square", (r, channel), round(v * v * PLACES))
            count("pairs", (r, label, predicted), 1)
            brier[r] += max(sum(v * v for v in p) - 2 * p[label] + 1, Fraction(0))
            nll[r] -= math.log(max(p[label], Fraction(1, 2**126)))
    return {**found, "brier": brier, "nll": nll}


def check_exact(tables: ScoreTables, probs: Tensor, labels: Tensor, holds: Tensor) -> None:
    expected = exact_tables(probs, labels, holds)
    conf = tables.conf_hi * 2**24 + tables.conf_lo
    square = tables.square[..., 0] * 2**24 + tables.square[..., 1]
    for table, name in ((tables.n, "n"), (tables.correct, "correct"), (conf, "conf"), (square, "square")):
        nonzero = {at: amount for at, amount in expected[name].items() if amount}  # type: ignore[attr-defined]
        assert {tuple(at): int(table[tuple(at)]) for at in table.nonzero().tolist()} == nonzero, name
    pairs = {tuple(at): int(tables.confusion[tuple(at)]) for at in tables.confusion.nonzero().tolist()}
    assert pairs == expected["pairs"]
    # each voxel is rounded to 2^-48 after an error of a few units of 2^-53
    bound = labels.numel() * 2**-48
    assert value(tables.sums[:, 0]).tolist() == pytest.approx([float(x) for x in expected["brier"]], abs=bound)  # type: ignore[attr-defined]
    assert value(tables.sums[:, 1]).tolist() == pytest.approx(expected["nll"], abs=bound, rel=1e-14)


@pytest.mark.fault(54)
@every
def test_every_nasty_probability_by_exact_fractions(name: str) -> None:
    p = torch.from_numpy(NASTY)
    probs = torch.stack([p, p.flip(0)])  # ties where both are the same
    probs[:, :3] = torch.tensor([[0.5, 0.25, 1.0], [0.5, 0.25, 1.0]])
    labels = torch.arange(len(p)) % 2
    holds = torch.ones(1, len(p), dtype=torch.bool)
    check_exact(counted(name, [(probs, labels, holds)], 2, 1), probs, labels, holds)


@settings(max_examples=40, deadline=None)
@given(data=st.data())
def test_random_cases_by_exact_fractions(data: st.DataObject) -> None:
    classes, voxels, regions = data.draw(st.integers(2, 5)), data.draw(st.integers(0, 20)), data.draw(st.integers(1, 3))
    rng = np.random.default_rng(data.draw(st.integers(0, 2**32)))
    choices = np.concatenate([NASTY, np.float32(1) / np.arange(1, 6, dtype=np.float32)])
    probs = np.where(rng.random((classes, voxels)) < 0.5, rng.choice(choices, (classes, voxels)), rng.random())
    slab = [torch.from_numpy(probs.astype(np.float32)), torch.from_numpy(rng.integers(0, classes, voxels))]
    slab.append(torch.from_numpy(rng.random((regions, voxels)) < 0.6))
    for name in IMPLEMENTATIONS:
        check_exact(counted(name, [slab], classes, regions), *slab)


@pytest.mark.fault(54)
@every
@pytest.mark.parametrize("classes", [2, 3, 5, 7])
def test_a_uniform_prediction_is_class_0_on_its_edge(name: str, classes: int) -> None:
    """Equal logits: p = 1/C exactly as float64 has it, ties to the lowest class."""
    slab = (torch.zeros(classes, 9), torch.ones(9, dtype=torch.uint8), torch.ones(1, 9, dtype=torch.bool))
    tables = counted(name, [slab], classes, 1, from_logits=True)
    assert tables.confusion[0, 1, 0] == 9
    cells = tables.n[0].nonzero()[:, 1]
    assert set(cells.tolist()) == {math.floor(300 / classes) * 2 + (300 % classes != 0) + 16}


@native
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(
    ("classes", "regions", "voxels"), [(2, 1, 1), (3, 2, 255), (4, 8, 5003), (14, 9, 700), (70, 3, 300)]
)
def test_probabilities_give_the_bits_of_the_reference(
    name: str, dtype: torch.dtype, classes: int, regions: int, voxels: int
) -> None:
    logits, labels, holds = random_slab(classes, classes, voxels, regions, dtype)
    slab = (probabilities(logits), labels, holds)
    options = {"composites": [(1,), (1, classes - 1)] if classes > 2 else [(1,)]}
    expected, found = (counted(n, [slab], classes, regions, **options) for n in ("reference", name))
    assert same(expected, found, but=("sums",))
    assert torch.equal(expected.sums[:, 0], found.sums[:, 0])
    assert torch.allclose(value(expected.sums), value(found.sums), rtol=1e-12, atol=0)
    assert int(found.n.sum()) > 0


@native
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(("classes", "voxels"), [(2, 3001), (4, 3001), (20, 300)])
def test_logits_give_the_counts_of_a_float64_softmax(name: str, dtype: torch.dtype, classes: int, voxels: int) -> None:
    logits, labels, holds = random_slab(1, classes, voxels, 2, dtype, sharpness=30)
    logits[:, :2] = torch.tensor([[0.0], [-1000.0], *[[-5.0]] * (classes - 2)])  # underflows to 0
    logits[1, 2:4] = -math.inf
    labels[:4] = 1
    holds[:, :4] = True
    expected, found = (counted(n, [(logits, labels, holds)], classes, 2, from_logits=True) for n in ("reference", name))
    sums = ("conf_hi", "conf_lo", "square", "sums")
    assert same(expected, found, but=sums)
    assert int(found.zero_probability[0]) >= 4
    for a, b in ((expected, found), (found, expected)):
        assert torch.allclose(
            from_limbs(a.conf_hi, a.conf_lo), from_limbs(b.conf_hi, b.conf_lo), rtol=1e-12, atol=1e-12
        )
        assert torch.allclose(value(a.square), value(b.square), rtol=1e-12, atol=0)
        assert torch.allclose(value(a.sums), value(b.sums), rtol=1e-12, atol=0)


@pytest.mark.skipif(len(ISAS) < 2, reason="this machine has one instruction set")
@pytest.mark.parametrize("from_logits", [False, True])
def test_all_instruction_sets_give_the_same_bits(from_logits: bool) -> None:
    logits, labels, holds = random_slab(3, 4, 20_011, 3, sharpness=12)
    slab = (logits if from_logits else probabilities(logits), labels, holds)
    tables = [counted(name, [slab], 4, 3, composites=[(1, 2, 3)], from_logits=from_logits) for name in ISAS]
    assert all(same(tables[0], other) for other in tables[1:])


@every
@pytest.mark.parametrize("from_logits", [False, True])
def test_slabs_order_and_threads_do_not_change_a_bit(name: str, from_logits: bool) -> None:
    logits, labels, holds = random_slab(4, 4, 70_001, 3)
    whole = (logits if from_logits else probabilities(logits), labels, holds)
    options = {"composites": [(1, 3)], "from_logits": from_logits}
    expected = counted(name, [whole], 4, 3, **options)
    rng = np.random.default_rng(0)
    for threads in (1, 2, 3, 4):
        cuts = [0, *np.sort(rng.integers(0, 70_001, 5)).tolist(), 70_001]
        slabs = [[t[..., a:b] for t in whole] for a, b in itertools.pairwise(cuts)]
        rng.shuffle(slabs)  # type: ignore[arg-type]
        assert same(counted(name, slabs, 4, 3, threads=threads, **options), expected)
    order = torch.from_numpy(rng.permutation(70_001))
    assert same(counted(name, [[t[..., order] for t in whole]], 4, 3, **options), expected)


@every
def test_tables_of_parts_add_up_to_those_of_the_whole(name: str) -> None:
    logits, labels, holds = random_slab(5, 3, 3000, 2)
    whole = (probabilities(logits), labels, holds)
    first, second = ([t[..., part] for t in whole] for part in (slice(0, 1111), slice(1111, None)))
    a, b, both = (counted(name, slabs, 3, 2) for slabs in ([first], [second], [first, second]))
    assert same(ScoreTables(**{k: v + getattr(b, k) for k, v in vars(a).items() if v is not None}), both)
    assert same(both, counted(name, [whole], 3, 2))


@every
def test_regions_are_independent_and_empty_ones_stay_0(name: str) -> None:
    logits, labels, holds = random_slab(6, 4, 4000, 4)
    holds[2] = False
    probs = probabilities(logits)
    together = counted(name, [(probs, labels, holds)], 4, 4)
    for r in range(4):
        alone = counted(name, [(probs[:, holds[r]], labels[holds[r]], torch.ones(1, int(holds[r].sum())).bool())], 4, 1)
        assert all(v is None or torch.equal(v[r], getattr(alone, k)[0]) for k, v in vars(together).items())
    assert not together.n[2].any()


@every
def test_nothing_gives_zeros(name: str) -> None:
    empty = (torch.zeros(3, 0), torch.zeros(0, dtype=torch.uint8), torch.zeros(2, 0, dtype=torch.bool))
    with running(name):
        before = Scorer(3, 2).tables()
    assert same(counted(name, [empty, empty], 3, 2), before)
    assert not any(v.any() for v in vars(before).values() if v is not None)
    assert same(score_voxels(*empty), before)


@pytest.mark.parametrize("name", ISAS or ["reference"])
def test_more_than_2_to_24_voxels_in_one_bin(name: str) -> None:
    """Float32 counters stop at 16,777,216; here the sum of confidences is a known integer."""
    n = 1 << 20
    p = torch.full((n,), 1 - 2**-12)
    slab = (torch.stack([p, 1 - p]), (torch.arange(n) % 4 == 0).to(torch.uint8), torch.ones(1, n, dtype=torch.bool))
    tables = counted(name, [slab] * 17, 2, 1)
    assert int(tables.n[0, 0].max()) == 17 * n
    assert int(tables.correct[0, 0].sum()) == 17 * n * 3 // 4
    assert int(tables.conf_hi[0, 0].sum()) * 2**24 + int(tables.conf_lo[0, 0].sum()) == 17 * n * (2**48 - 2**36)


def test_limbs_hold_2_to_33_voxels() -> None:
    """The largest that a voxel adds, times their number; nll at its floor reaches 2^63 after 2^32 voxels."""
    slab = (torch.tensor([[1.0], [0.0]]), torch.ones(1, dtype=torch.uint8), torch.ones(1, 1, dtype=torch.bool))
    tables = counted("reference", [slab], 2, 1)
    for name in ("n", "correct", "conf_hi", "conf_lo", "square", "confusion", "zero_probability"):
        assert int(getattr(tables, name).max()) << 33 < 2**63
    brier, nll, _ = tables.sums[0].tolist()
    assert max(brier) << 33 < 2**63
    assert max(nll) << 32 < 2**63 <= max(nll) << 33
