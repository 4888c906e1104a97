"""What the scorer takes: types, layouts, sigmoid channels, options; what it refuses; how much memory it needs."""

from __future__ import annotations

import math
import subprocess
import sys
from typing import Any

import pytest
import torch
from scoring_cases import IMPLEMENTATIONS, ISAS, counted, probabilities, random_slab, running, same, value

from medcalib.ops._score_native import NativeScorer
from medcalib.ops._score_tables import ScoreSpec
from medcalib.ops.scoring import Scorer, from_limbs, score_voxels

every = pytest.mark.parametrize("name", IMPLEMENTATIONS)
native = pytest.mark.skipif(not ISAS, reason="the native library is not built")


@every
@pytest.mark.parametrize("dtype", [torch.uint8, torch.int16, torch.int32, torch.int64])
def test_every_type_of_label(name: str, dtype: torch.dtype) -> None:
    logits, labels, holds = random_slab(0, 4, 1000, 2)
    probs = probabilities(logits)
    expected = counted("reference", [(probs, labels, holds)], 4, 2)
    assert same(counted(name, [(probs, labels.to(dtype), holds)], 4, 2), expected, but=("sums",))


@every
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("from_logits", [False, True])
def test_half_precision_is_read_as_float32(name: str, dtype: torch.dtype, from_logits: bool) -> None:
    logits, labels, holds = random_slab(1, 3, 1000, 1)
    values = (logits if from_logits else probabilities(logits)).to(dtype)
    found, expected = (
        counted(name, [(v, labels, holds)], 3, 1, from_logits=from_logits) for v in (values, values.float())
    )
    assert same(found, expected)


@every
def test_layouts_do_not_matter(name: str) -> None:
    """Channels last, every second voxel, a repeated mask, reversed rows of a larger array."""
    logits, labels, holds = random_slab(2, 4, 3000, 3)
    probs = probabilities(logits)
    wide = torch.zeros(4, 6000)
    wide[:, ::2] = probs
    doubled = torch.stack([labels, labels], 1).reshape(-1)
    one = torch.ones(1, 1, dtype=torch.bool)
    for mask, regions in ((holds, 3), (one.expand(2, 3000), 2)):
        expected = counted(name, [(probs, labels, mask.contiguous())], 4, regions)
        for values in (probs.T.contiguous().T, wide[:, ::2], torch.cat([probs, probs])[2:6].roll(2, 0)):
            assert same(counted(name, [(values, doubled[::2], mask)], 4, regions), expected)


@every
def test_a_gradient_is_no_obstacle(name: str) -> None:
    logits, labels, holds = random_slab(2, 3, 100, 1)
    expected = counted(name, [(logits, labels, holds)], 3, 1, from_logits=True)
    assert same(counted(name, [(logits.requires_grad_(), labels, holds)], 3, 1, from_logits=True), expected)


@every
@pytest.mark.parametrize("from_logits", [False, True])
def test_what_lies_outside_all_regions_may_be_anything(name: str, from_logits: bool) -> None:
    logits, labels, holds = random_slab(3, 4, 3000, 2)
    values = logits if from_logits else probabilities(logits)
    outside = ~holds.any(0)
    expected = counted(name, [(values, labels, holds)], 4, 2, from_logits=from_logits)
    values, labels = values.clone(), labels.clone()
    for at, bad in enumerate((math.nan, math.inf, -math.inf, 1e30, -3.0)):
        values[:, outside & (torch.arange(3000) % 5 == at)] = bad
    labels[outside] = 255
    assert int(outside.sum()) > 500
    assert same(counted(name, [(values, labels, holds)], 4, 2, from_logits=from_logits), expected)


@every
def test_sigmoid_channels_by_hand(name: str) -> None:
    """Two voxels, regions {1, 2} and {2}: hits follow the label, there is no top label."""
    probs = torch.tensor([[0.75, 0.5], [0.125, 1.0]])
    labels = torch.tensor([1, 2], dtype=torch.int16)
    tables = counted(name, [(probs, labels, torch.ones(1, 2).bool())], 3, 1, groups=[(1, 2), (2,)])
    assert tables.n.shape[:2] == (1, 3)
    assert tables.n[0].sum(1).tolist() == [0, 2, 2]
    assert tables.correct[0].sum(1).tolist() == [0, 2, 1]
    assert from_limbs(tables.conf_hi, tables.conf_lo)[0].sum(1).tolist() == [0, 1.25, 1.125]
    assert value(tables.square[0]).tolist() == [0, 0.75**2 + 0.5**2, 0.125**2 + 1]
    assert not tables.confusion.any()
    assert not tables.sums.any()
    assert not tables.zero_probability.any()


@every
@pytest.mark.parametrize("from_logits", [False, True])
def test_sigmoid_channels_are_two_classes_each(name: str, from_logits: bool) -> None:
    logits, labels, holds = random_slab(4, 3, 2000, 2)
    groups = [(1, 2), (2,), (0,)]
    p = logits.double().sigmoid()
    values = logits if from_logits else p
    together = counted(name, [(values, labels, holds)], 3, 2, groups=groups, from_logits=from_logits)
    for k, members in enumerate(groups):
        hit = torch.isin(labels, torch.tensor(members)).long()
        alone = counted(name, [(torch.stack([1 - p[k], p[k]]), hit, holds)], 2, 2)
        for table in ("n", "correct"):
            assert torch.equal(getattr(together, table)[:, 1 + k], getattr(alone, table)[:, 2])
        conf = [from_limbs(t.conf_hi, t.conf_lo)[:, i].sum(1) for t, i in ((together, 1 + k), (alone, 2))]
        assert torch.allclose(*conf, rtol=1e-12, atol=0)
        assert torch.allclose(value(together.square[:, 1 + k]), value(alone.square[:, 2]), rtol=1e-12, atol=0)
    one_call = score_voxels(values, labels, holds, groups=groups, from_logits=from_logits)
    assert one_call.n.equal(together.n)


@every
def test_without_class_tables_the_rest_is_the_same(name: str) -> None:
    logits, labels, holds = random_slab(5, 4, 1500, 2)
    slab = (probabilities(logits), labels, holds)
    full, top = (counted(name, [slab], 4, 2, composites=[(2, 3)], classwise=c) for c in (True, False))
    for table in ("n", "correct", "conf_hi", "conf_lo", "square"):
        assert torch.equal(getattr(full, table)[:, [0, 5]], getattr(top, table)[:, [0, 5]])
        assert not getattr(top, table)[:, 1:5].any()
    assert torch.equal(full.confusion, top.confusion)
    assert torch.equal(full.sums, top.sums)


def test_a_known_posterior_takes_the_place_of_labels() -> None:
    logits, labels, holds = random_slab(6, 3, 500, 1)
    probs, known = probabilities(logits), probabilities(logits / 2)
    tables = counted("reference" if not ISAS else ISAS[0], [(probs, labels, holds, known)], 3, 1, has_posterior=True)
    kept = holds[0]
    assert tables.truth_hi is not None
    assert tables.truth_lo is not None
    found = from_limbs(tables.truth_hi, tables.truth_lo)[0].sum(1)
    top = known.gather(0, probs.argmax(0)[None])[0]
    expected = [float(p[kept].double().sum()) for p in (top, *known)]
    assert found.tolist() == pytest.approx(expected, rel=1e-13)
    distance = float((probs.double() - known)[:, kept].abs().mean(0).sum())
    assert float(value(tables.sums[0])[2]) == pytest.approx(distance, rel=1e-12)


@every
@pytest.mark.parametrize("bad", [math.nan, math.inf, -0.25, 1 + 2**-20])
@pytest.mark.parametrize("at", [0, 300, 999])
def test_a_probability_outside_0_to_1_is_refused(name: str, bad: float, at: int) -> None:
    logits, labels, holds = random_slab(7, 3, 1000, 2)
    probs = probabilities(logits)
    probs[1, at] = bad
    holds[:, at] = torch.tensor([False, True])
    with running(name):
        scorer = Scorer(3, 2)
        with pytest.raises(ValueError, match=r"probabilities must lie in \[0, 1\].*from_logits=True"):
            scorer.add(probs, labels, holds)
        with pytest.raises(RuntimeError, match="use a new one"):
            scorer.tables()


@every
@pytest.mark.parametrize("bad", [[math.nan, 0.0], [math.inf, 0.0], [-math.inf, -math.inf]])
def test_logits_without_a_softmax_are_refused(name: str, bad: list[float]) -> None:
    logits = torch.zeros(2, 400)
    logits[:, 77] = torch.tensor(bad)
    slab = (logits, torch.zeros(400, dtype=torch.uint8), torch.ones(1, 400).bool())
    with pytest.raises(ValueError, match="logits must be finite"):
        counted(name, [slab], 2, 1, from_logits=True)


@every
@pytest.mark.parametrize(
    ("dtype", "label"), [(torch.uint8, 3), (torch.int16, -1), (torch.int64, 2**40), (torch.int32, 255)]
)
def test_a_label_that_is_no_class_is_refused(name: str, dtype: torch.dtype, label: int) -> None:
    logits, labels, holds = random_slab(8, 3, 500, 1)
    labels = labels.to(dtype)
    labels[123], holds[:, 123] = label, True
    with pytest.raises(ValueError, match=rf"labels must lie in 0..2, got .*{label}"):
        counted(name, [(probabilities(logits), labels, holds)], 3, 1)


PROBS, LABELS, REGIONS = torch.full((2, 5), 0.5), torch.zeros(5, dtype=torch.uint8), torch.ones(1, 5, dtype=torch.bool)


@pytest.mark.parametrize(
    ("slab", "words"),
    [
        ((PROBS[:1], LABELS, REGIONS), r"expected probs \(2, n\)"),
        ((PROBS, LABELS[:4], REGIONS), "expected probs"),
        ((PROBS, LABELS, REGIONS[0]), r"regions \(1, n\)"),
        ((PROBS.int(), LABELS, REGIONS), "probs must be float16"),
        ((PROBS, LABELS.float(), REGIONS), "labels must be uint8"),
        ((PROBS, LABELS, REGIONS.to(torch.uint8)), "regions must be bool"),
        ((PROBS, LABELS, REGIONS, PROBS), "expected a posterior None"),
    ],
)
def test_wrong_shapes_and_types_are_refused(slab: tuple[torch.Tensor, ...], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        Scorer(2, 1).add(*slab)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"num_classes": 0}, "num_classes must be at least 1"),
        ({"num_regions": 0}, "num_regions must be at least 1"),
        ({"composites": [(1, 4)]}, "classes in 0..3"),
        ({"composites": [()]}, "at least one class"),
        ({"groups": [(1, 1)]}, "each once"),
        ({"groups": []}, "at least one channel"),
        ({"groups": [(1,)], "composites": [(1,)]}, "neither composites"),
    ],
)
def test_unusable_options_are_refused(options: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        Scorer(**{"num_classes": 4, "num_regions": 1, **options})


@native
@pytest.mark.parametrize(("classes", "regions"), [(4, 1), (4, 8), (14, 5), (20, 8), (117, 8), (255, 8)])
@pytest.mark.parametrize("threads", [1, 2, 16, 128])
def test_the_memory_of_all_threads_is_bounded(classes: int, regions: int, threads: int) -> None:
    spec = ScoreSpec(classes, regions)
    with running(ISAS[0], threads):
        scorer = NativeScorer(spec, spec.zeros())
        scorer.add(torch.zeros(classes, 1), torch.zeros(1, dtype=torch.uint8), torch.ones(regions, 1).bool())
    assert sum(part.nbytes for part in scorer._scratch) <= 64 << 20


@native
@pytest.mark.parametrize("last", [False, True])
def test_a_volume_is_scored_in_little_memory(last: bool) -> None:
    """4 x 2^23 float32 are 128 MiB; channels last have to be copied, but never at once."""
    script = (
        "import resource, torch; from medcalib.ops.scoring import Scorer; torch.set_num_threads(2); n = 1 << 23\n"
        f"p = torch.full((n, 4), 0.25).T if {last} else torch.full((4, n), 0.25)\n"
        "y = torch.zeros(n, dtype=torch.uint8); r = torch.ones(2, n, dtype=torch.bool)\n"
        "Scorer(4, 2).add(p[:, :9], y[:9], r[:, :9]); before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "s = Scorer(4, 2); s.add(p, y, r); assert int(s.tables().n[0, 0].sum()) == n\n"
        "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    unit = 1 if sys.platform == "darwin" else 1024
    assert int(done.stdout) * unit <= 32 << 20
