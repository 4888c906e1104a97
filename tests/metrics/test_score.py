"""Scoring in slabs, from logits, and of region models: the same bits, and channel by channel."""

from __future__ import annotations

import itertools
import math
import tracemalloc
from typing import Any

import numpy as np
import pytest
import torch
from helpers import smooth_case
from torch import Tensor

from medcalib.metrics import CalibrationCounts, CaseScores, score_case
from medcalib.metrics.brier_parts import classwise_brier
from medcalib.metrics.case import RegionScores
from medcalib.metrics.products import ProductSums
from medcalib.ops.scoring import score_voxels

NAMES = ("background", "NCR", "ED", "ET")
COMPOSITES = {"WT": (1, 2, 3), "TC": (1, 3)}
OPTIONS: dict[str, Any] = {"case_id": "c1", "class_names": NAMES, "distances": False}


def tables(case: CaseScores) -> list[Tensor]:
    """Everything that a case stores as integers."""
    found = [*vars(case.overlap).values(), *vars(case.volumes).values()]
    for region in case.regions.values():
        found += [table for table in vars(region.calibration).values() if table is not None]
        found += [region.sums.limbs, torch.tensor([region.sums.voxels, region.sums.zero_probability])]
    return found


def same(a: CaseScores, b: CaseScores) -> bool:
    return (
        all(torch.equal(x, y) for x, y in zip(tables(a), tables(b), strict=True))
        and a.regions.keys() == b.regions.keys()
    )


def slabs(probs: Tensor, cuts: list[int]) -> list[tuple[slice, Any]]:
    edges = [0, *cuts, probs.shape[-1]]
    return [(slice(a, b), probs[..., a:b].numpy()) for a, b in itertools.pairwise(edges)]


@pytest.mark.parametrize("cuts", [[], [1], [3, 4, 9], list(range(1, 10))])
@pytest.mark.parametrize("activation", ["softmax", "logits"])
def test_slabs_give_the_same_bits_as_the_whole(cuts: list[int], activation: str) -> None:
    probs, labels = smooth_case(0)
    labels[3:5, 2] = 255
    given = probs if activation == "softmax" else (probs.double().log() * 1.5 + 3).float()
    options = OPTIONS | {
        "composites": COMPOSITES,
        "ignore_index": 255,
        "activation": activation,
        "posterior": smooth_case(1)[0],
        "masks": {"m": labels == 2},
        "distances": True,
    }
    whole = score_case(given, labels, **options)
    parts = slabs(given, cuts)
    assert same(score_case(iter(parts), labels, **options), whole)
    assert same(score_case(parts[::-1], labels, **options), whole)
    assert score_case(parts, labels, **options).hd95_mm == pytest.approx(whole.hd95_mm, nan_ok=True)


def test_a_big_tensor_is_cut_where_it_does_not_matter(monkeypatch: pytest.MonkeyPatch) -> None:
    from medcalib.metrics import slabs as module

    probs, labels = smooth_case(2)
    whole = score_case(probs, labels, **OPTIONS, composites=COMPOSITES)
    monkeypatch.setattr(module, "_STEP", 1001)
    assert same(score_case(probs, labels, **OPTIONS, composites=COMPOSITES), whole)


def test_counts_are_those_of_score_voxels() -> None:
    probs, labels = smooth_case(3)
    case = score_case(probs, labels, **OPTIONS, regions=["all", "gt_foreground"])
    flat, flat_labels = probs.reshape(4, -1), labels.reshape(-1)
    found = score_voxels(flat, flat_labels, torch.stack([flat_labels >= 0, flat_labels > 0]))
    for place, name in enumerate(("all", "gt_foreground")):
        counts = case.regions[name].calibration
        assert torch.equal(counts.n, found.n[place])
        assert torch.equal(counts.conf_lo, found.conf_lo[place])
        assert torch.equal(counts.square, found.square[place])


def test_a_slab_is_all_that_is_held_of_the_probabilities() -> None:
    """512 slices of 64 x 64 x 4 float32, 64 KiB each, made one by one: 32 MiB if held. Labels and argmax are 2 MiB
    each; the tables of 6 regions and 5 channels take up most of the rest."""
    labels = torch.zeros(64, 64, 512, dtype=torch.uint8)
    labels[20:40, 20:40] = 1

    def made() -> Any:
        for k in range(512):
            p = np.full((4, 64, 64, 1), 0.1, np.float32)
            p[k % 4] = 0.7
            yield slice(k, k + 1), p

    score_case(torch.full((4, 2, 2, 2), 0.25), labels[:2, :2, :2], **OPTIONS)
    tracemalloc.start()
    score_case(made(), labels, **OPTIONS, regions=["all", "foreground"])
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 16 << 20


@pytest.mark.parametrize(
    ("cut", "message"),
    [
        (lambda s: s[:-1], "the slabs cover 7 of 10 positions"),
        (lambda s: [s[0], s[0], s[1]], r"slab 0\.\.4 overlaps"),
        (lambda s: [(slice(0, 3), s[0][1])], r"expected slab 0\.\.3 over \(20, 24, 3\), .* got \(20, 24, 4\)"),
        (lambda s: [(p, v[:3]) for p, v in s], "4 classes are named, the probabilities have 3 channels"),
        (lambda s: [*s[:2], (s[2][0], s[2][1] * 0.9)], "must sum to 1"),
    ],
)
def test_slabs_that_do_not_fit_are_refused(cut: Any, message: str) -> None:
    probs, labels = smooth_case(0)
    with pytest.raises(ValueError, match=message):
        score_case(cut(slabs(probs, [4, 7])), labels, **OPTIONS)


def test_logits_are_scored_as_their_softmax_and_not_taken_for_probabilities() -> None:
    probs, labels = smooth_case(0)
    logits = probs.double().log() + 7
    found = score_case(logits, labels, **OPTIONS, activation="logits").regions["all"]
    expected = score_case(logits.softmax(0), labels, **OPTIONS).regions["all"]
    assert found.calibration.ece() == pytest.approx(expected.calibration.ece(), abs=1e-12)
    assert found.sums.nll() == pytest.approx(expected.sums.nll(), abs=1e-12)
    with pytest.raises(ValueError, match="NaN or infinite"):
        score_case(logits.where(logits < logits.max(), math.inf), labels, **OPTIONS, activation="logits")


GROUPS = ((1, 2, 3), (1, 3), (3,), (1, 2))


def region_model(seed: int = 0) -> tuple[Tensor, Tensor]:
    """Independent probabilities of four groups, which do not sum to 1, and labels."""
    probs, labels = smooth_case(seed)
    other, _ = smooth_case(seed + 1)
    return torch.stack([(probs[list(g)].sum(0) * 0.8 + other[0] * 0.2).clamp(0, 1) for g in GROUPS]), labels


def of_group(probs: Tensor, labels: Tensor, k: int) -> CalibrationCounts:
    """The same channel as a binary task of its own."""
    p = probs[k].double()
    hit = torch.isin(labels, torch.tensor(GROUPS[k]))
    return CalibrationCounts.from_probs(torch.stack([1 - p, p])[None], hit[None].to(torch.uint8))


def scored_groups(**options: Any) -> tuple[CaseScores, Tensor, Tensor]:
    probs, labels = region_model()
    case = score_case(probs, labels, **OPTIONS | options, activation="sigmoid", groups=GROUPS, composites=COMPOSITES)
    return case, probs, labels


def test_independent_channels_are_scored_as_binary_tasks() -> None:
    case, probs, labels = scored_groups()
    assert case.channels == ("background", "WT", "TC", "ET", "NCR+ED")
    assert (case.num_classes, case.binary) == (5, True)
    for k in range(4):
        counts, expected = case.regions["all"].calibration, of_group(probs, labels, k)
        assert float(counts.classwise_ece()[1 + k]) == pytest.approx(float(expected.classwise_ece()[1]), abs=1e-12)
        assert float(classwise_brier(counts)[1 + k]) == pytest.approx(float(classwise_brier(expected)[1]), abs=1e-12)
        predicted, hit = probs[k] > 0.5, torch.isin(labels, torch.tensor(GROUPS[k]))
        dice = 2 * (predicted & hit).sum() / (predicted.sum() + hit.sum())
        assert float(case.overlap.dice()[1 + k]) == pytest.approx(float(dice), abs=1e-7)
        volume = case.volumes.in_ml(1 + k, (10.0, 10.0, 10.0))
        assert volume["predicted"] == int(predicted.sum())
        assert volume["reference"] == int(hit.sum())
        assert volume["expected"] == pytest.approx(float(probs[k].double().sum()), abs=1e-9)


def test_independent_channels_have_no_top_label() -> None:
    case, probs, _ = scored_groups()
    region: RegionScores = case.regions["all"]
    assert region.calibration.voxels() == 0
    assert math.isnan(region.calibration.ece())
    assert math.isnan(region.sums.brier())
    assert math.isnan(region.sums.nll())
    assert torch.isnan(region.calibration.classwise_ece()[0])
    foreground = case.regions["pred_foreground"].calibration.n[2].sum()
    assert int(foreground) == int((probs > 0.5).any(0).sum())


def test_slabs_of_independent_channels_give_the_same_bits_and_surfaces() -> None:
    case, probs, labels = scored_groups(distances=True)
    again = score_case(
        slabs(probs, [3, 8]), labels, **OPTIONS | {"distances": True}, activation="sigmoid", groups=GROUPS
    )
    assert same(case, again)
    assert again.hd95_mm == pytest.approx(case.hd95_mm, nan_ok=True)
    from medcalib.metrics.surface import hd95_mm, surface_dice

    masks = (probs[1] > 0.5).numpy(), torch.isin(labels, torch.tensor(GROUPS[1])).numpy()
    assert case.hd95_mm[2] == hd95_mm(*masks, (1, 1, 1))
    assert case.surface_dice[2] == surface_dice(*masks, (1, 1, 1), 1.0)


def test_partial_labels_leave_out_groups_that_hold_an_unlabelled_class() -> None:
    case, _, _ = scored_groups(labelled_classes=["NCR", "ET"])
    assert case.labelled == (False, False, True, True, False)
    assert torch.isnan(case.regions["all"].calibration.classwise_ece()).tolist() == [True, True, False, False, True]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"activation": "sigmoid"}, "groups are for activation='sigmoid', which needs them"),
        ({"groups": ((1,),)}, "groups are for activation='sigmoid', which needs them"),
        (
            {"posterior": torch.ones(4, 20, 24, 9)},
            r"expected a posterior of shape \(4, 20, 24, 10\), got \(4, 20, 24, 9\)",
        ),
        ({"regions": ["lung"]}, "regions must be of all, .*, got 'lung'; give your own as masks"),
        ({"activation": "tanh"}, "activation must be one of softmax, logits, sigmoid"),
        ({"activation": "sigmoid", "groups": ((1, 4),)}, r"groups must name labels in 0\.\.3"),
        ({"activation": "sigmoid", "groups": GROUPS[:3]}, "3 groups are named, the probabilities have 4 channels"),
    ],
)
def test_activations_and_groups_that_do_not_fit_are_refused(options: dict[str, Any], message: str) -> None:
    probs, labels = smooth_case(0)
    with pytest.raises(ValueError, match=message):
        score_case(probs, labels, **OPTIONS, **options)


def test_products_are_exact_and_do_not_depend_on_slabs() -> None:
    probs, labels = smooth_case(5)
    flat, flat_labels = probs.reshape(4, -1), labels.reshape(-1)
    members = [(0,), (1,), (2,), (3,), (1, 2), (0, 3)]
    inside = torch.stack([flat_labels >= 0, flat_labels == 2])
    tables = score_voxels(flat, flat_labels, inside, composites=members[4:])
    whole, parts = (ProductSums(members, 2) for _ in range(2))
    whole.add(flat, flat_labels, inside)
    for part in torch.arange(flat.shape[1]).split(777):
        parts.add(flat[:, part], flat_labels[part], inside[:, part])
    found = whole.limbs(tables)
    assert torch.equal(found, parts.limbs(tables))
    values = found.double() @ torch.tensor([2.0**-24, 2.0**-48], dtype=torch.float64)
    for k, group in enumerate(members):
        p = flat[list(group)].double().sum(0).clamp(max=1)
        hit = torch.isin(flat_labels, torch.tensor(group))
        for r in range(2):
            expected = math.fsum(p[hit & inside[r]].tolist())
            assert float(values[r, 1 + k]) == pytest.approx(expected, abs=1e-10)
