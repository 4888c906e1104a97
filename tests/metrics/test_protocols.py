"""Published protocols against loops that follow the authors' code step by step, and volumes small enough to count."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from helpers import smooth_case
from scipy.spatial.distance import cdist

from medcalib.metrics import score_case
from medcalib.metrics.protocols import PROTOCOLS, protocol_case, protocol_mean, protocol_text, shown

NAMES = ("background", "RV", "MYO", "LV")
CASES = [smooth_case(seed, sharpness=2.0 + seed) for seed in range(3)]


def gaps_right(p: np.ndarray, hit: np.ndarray, edges: np.ndarray, total: int) -> float:
    """sum over (low, high] of |mean p - mean hit| times the share of `total`, edges compared in float32."""
    value = 0.0
    for low, high in zip(np.float32(edges[:-1]), np.float32(edges[1:]), strict=True):
        inside = (p > low) & (p <= high)
        if inside.any():
            value += abs(p[inside].astype(np.float64).mean() - hit[inside].mean()) * inside.sum() / total
    return value


def window_share(labels: np.ndarray, k: int) -> np.ndarray:
    """Share of label k in the 3 x 3 window of the first two axes; outside is label 0."""
    padded = np.pad(labels, ((1, 1), (1, 1), (0, 0)))
    shape = labels.shape
    return sum(padded[a : a + shape[0], b : b + shape[1]] == k for a in range(3) for b in range(3)) / 9


def marginloss_by_loops(probs: np.ndarray, labels: np.ndarray) -> dict[str, float]:
    kept = labels != 0
    p, y = probs[:, kept], labels[kept]
    confidence, hit = p.max(0), p.argmax(0) == y
    edges = torch.linspace(0, 1, 16).numpy()
    classes = range(int(y.max()) + 1)
    n = y.size
    quantiles = np.interp(np.linspace(0, n, 16), np.arange(n), np.sort(confidence))
    above = [p[k] > np.float32(1e-3) for k in classes]
    thresholded = [gaps_right(p[k][above[k]], (y == k)[above[k]], edges, above[k].sum()) for k in classes]
    shares = np.stack([window_share(labels, k)[kept] for k in range(4)])
    found = {
        "ece": gaps_right(confidence, hit, edges, n),
        "cece": np.mean([gaps_right(p[k], y == k, edges, n) for k in classes]),
        "aece": gaps_right(confidence, hit, quantiles, n),
        "nll": -np.log(p[y, np.arange(n)].astype(np.float64)).mean(),
        "tcece": np.mean(thresholded),
    }
    rounded = {key: float(np.round(value, 4)) for key, value in found.items()}
    return rounded | {"soft_brier": float(((p.astype(np.float64) - shares) ** 2).sum(0).mean())}


def surface_points(mask: np.ndarray) -> np.ndarray:
    """Voxels of a mask with a face neighbor outside it (or outside the volume)."""
    padded = np.pad(mask, 1)
    inner = padded.copy()
    for axis in range(3):
        inner &= np.roll(padded, 1, axis) & np.roll(padded, -1, axis)
    return np.argwhere(padded & ~inner)


def shapes_by_loops(predicted: np.ndarray, reference: np.ndarray) -> tuple[float, float]:
    if not reference.any():
        return 1.0, 0.0
    if not predicted.any():
        return 0.0, 0.0
    dice = 2 * (predicted & reference).sum() / (predicted.sum() + reference.sum())
    distance = cdist(surface_points(predicted), surface_points(reference))
    return float(np.round(dice, 4)), float(np.percentile(np.hstack([distance.min(1), distance.min(0)]), 95))


@pytest.mark.parametrize("index", range(3))
def test_marginloss_agrees_with_loops(index: int) -> None:
    probs, labels = CASES[index]
    found = protocol_case("marginloss", probs, labels, NAMES)
    for key, value in marginloss_by_loops(probs.numpy(), labels.numpy().astype(int)).items():
        assert found[key] == pytest.approx(value, abs=1e-9), key
    predicted = probs.argmax(0).numpy()
    rows = [shapes_by_loops(predicted == k, labels.numpy() == k) for k in (1, 2, 3)]
    assert [found[f"dsc/{name}"] for name in NAMES[1:]] == [row[0] for row in rows]
    assert [found[f"hd95/{name}"] for name in NAMES[1:]] == pytest.approx([row[1] for row in rows], abs=1e-9)
    assert found["dsc"] == pytest.approx(np.mean([row[0] for row in rows]))


def test_marginloss_averages_over_the_classes_up_to_the_largest_label() -> None:
    probs, labels = CASES[0]
    labels = torch.where(labels == 3, 0, labels)
    found = protocol_case("marginloss", probs, labels, NAMES)
    assert found["cece"] == marginloss_by_loops(probs.numpy(), labels.numpy().astype(int))["cece"]
    assert found["dsc/LV"] == 1.0  # although there are false positives
    assert found["hd95/LV"] == 0.0
    assert bool((probs.argmax(0) == 3).any())


def test_marginloss_keeps_its_conventions_for_what_is_missing() -> None:
    labels = torch.zeros(6, 6, 4, dtype=torch.uint8)
    labels[2:4, 2:4, 1:3] = 1
    nothing = torch.zeros(4, 6, 6, 4)
    nothing[0] = 1
    found = protocol_case("marginloss", nothing, labels, NAMES)
    assert (found["dsc/RV"], found["hd95/RV"], found["dsc/MYO"], found["hd95/MYO"]) == (0.0, 0.0, 1.0, 0.0)
    assert found["nll"] == pytest.approx(87.3365)
    empty = protocol_case("marginloss", nothing, torch.zeros_like(labels), NAMES)
    assert [empty[key] for key in ("ece", "cece", "aece", "nll", "tcece", "soft_brier")] == [None] * 6
    assert empty["dsc"] == 1.0
    mean = protocol_mean("marginloss", [found, empty])
    assert mean["dsc/RV"] == 0.5
    assert mean["ece"] == found["ece"] == 1.0


def test_marginloss_scores_et_tc_and_wt_where_they_are_named() -> None:
    probs, labels = CASES[1]
    names = ("background", "NCR", "ED", "ET")
    found = protocol_case("marginloss", probs, labels, names, composites={"WT": (1, 2, 3), "TC": (1, 3)})
    predicted, reference = probs.argmax(0).numpy(), labels.numpy()
    for name, members in {"ET": (3,), "TC": (1, 3), "WT": (1, 2, 3)}.items():
        dsc, _ = shapes_by_loops(np.isin(predicted, members), np.isin(reference, members))
        assert found[f"dsc/{name}"] == dsc
    assert "dsc/NCR" not in found
    assert found["dsc"] == pytest.approx(np.mean([found[f"dsc/{name}"] for name in ("ET", "TC", "WT")]))


def tace_by_loops(p: np.ndarray, hit: np.ndarray) -> float:
    order = np.argsort(p, kind="stable")
    p, hit = p[order], hit[order]
    hit, p = hit[p > np.float32(1e-3)], p[p > np.float32(1e-3)]
    size, terms = len(p) // 10, []
    for b in range(10):
        part = slice(b * size, b * size + size if b < 9 else len(p))
        terms.append(len(p[part]) * abs(hit[part].mean() - p[part].astype(np.float64).mean()) / len(p))
    return float(np.mean(terms))


@pytest.mark.parametrize("index", range(3))
def test_svls_agrees_with_loops(index: int) -> None:
    probs, labels = CASES[index]
    found = protocol_case("svls", probs, labels, NAMES)
    p, y = probs.numpy().reshape(4, -1), labels.numpy().ravel()
    kept = y > 0
    confidence, hit = p[:, kept].max(0), p[:, kept].argmax(0) == y[kept]
    assert found["ece"] == pytest.approx(gaps_right(confidence, hit, np.linspace(0, 1, 11), kept.sum()), abs=1e-12)
    expected = [tace_by_loops(p[k], y == k) for k in (1, 2, 3)]
    assert [found[f"tace/{name}"] for name in NAMES[1:]] == pytest.approx(expected, abs=1e-12)
    assert found["tace"] == pytest.approx(np.mean(expected), abs=1e-12)


def test_svls_has_no_tace_of_fewer_voxels_than_bins() -> None:
    probs = torch.zeros(2, 3, 3, 3)
    probs[0] = 1
    probs[:, 0, 0] = 0.5
    found = protocol_case("svls", probs, torch.zeros(3, 3, 3, dtype=torch.uint8), ("background", "a"))
    assert found == {"ece": None, "tace": None, "tace/a": None}


def test_monai_is_its_metric_where_float32_is_right() -> None:
    """4800 voxels: float32 sums are off by 1e-6 at most."""
    from monai.metrics import CalibrationErrorMetric

    numbers = [protocol_case("monai", probs, labels, NAMES) for probs, labels in CASES]
    mean = protocol_mean("monai", numbers)
    for key, reduction in {"ece": "expected", "ace": "average", "mce": "maximum"}.items():
        metric = CalibrationErrorMetric(calibration_reduction=reduction)
        for probs, labels in CASES:
            onehot = torch.nn.functional.one_hot(labels.long(), 4).movedim(-1, 0)
            metric(probs[None], onehot[None])
        assert mean[key] == pytest.approx(float(metric.aggregate()), abs=2e-6)
        per_channel = metric.aggregate("mean_batch")
        assert [mean[f"{key}/{name}"] for name in NAMES] == pytest.approx(per_channel.tolist(), abs=2e-6)


def test_monai_takes_its_own_edges() -> None:
    """0.05 as float32 lies in the first of 20 bins: its edges are multiplied by 1 + 2^-23."""
    p = torch.tensor([0.05, 0.05 * 0.5, 1.0, 0.0])
    probs, labels = torch.stack([1 - p, p])[:, :, None, None], torch.tensor([1, 0, 1, 0])[:, None, None]
    found = protocol_case("monai", probs, labels, ("background", "a"))
    first, last = abs(float(p[[0, 1, 3]].mean()) - 1 / 3), 0.0
    assert found["ece/a"] == pytest.approx((3 * first + last) / 4, abs=1e-7)
    assert found["ace/a"] == pytest.approx(first / 2, abs=1e-7)
    assert found["mce/a"] == pytest.approx(first, abs=1e-7)


def test_monai_is_exact_where_its_float32_sums_are_not() -> None:
    from monai.metrics import CalibrationErrorMetric

    p = torch.full((1, 128, 128, 128), 0.997)
    p[:, ::2] = 0.9975
    labels = torch.zeros(128, 128, 128, dtype=torch.uint8)
    probs = torch.cat([p, 1 - p])
    found = protocol_case("monai", probs, labels, ("background", "a"))["ece/background"]
    truth = 1 - float(p.double().mean())
    metric = CalibrationErrorMetric()
    metric(p[None], torch.ones(1, 1, 128, 128, 128))
    assert found == pytest.approx(truth, abs=1e-12)
    assert abs(float(metric.aggregate()) - truth) > 0.1 * truth


def test_acl_agrees_with_loops_in_macro_and_micro() -> None:
    numbers = [protocol_case("acl", probs, labels, NAMES) for probs, labels in CASES]
    mean = protocol_mean("acl", numbers)
    edges = torch.linspace(0, 1 + 2**-23, 21)
    micro = {"ece": [], "ace": [], "mce": []}
    for k in (1, 2, 3):
        table, dice = [], []
        for probs, labels in CASES:
            p, hit = probs[k].numpy().ravel(), (labels == k).numpy().ravel()
            index = np.array([min(int((edges[1:].numpy() < v).sum()), 19) for v in p])
            table.append([(float((index == b).sum()), p[index == b], hit[index == b]) for b in range(20)])
            dice.append(2 * ((p >= 0.5) & hit).sum() / ((p >= 0.5).sum() + hit.sum()))
        gaps = []
        for b in range(20):
            rows = [case[b] for case in table if case[b][0]]
            if rows:
                confidence = np.mean([p.astype(np.float64).mean() for _, p, _ in rows])
                n = sum(row[0] for row in rows)
                gaps.append((n, abs(confidence - sum(hit.sum() for _, _, hit in rows) / n)))
        n, gap = np.array(gaps).T
        for key, value in {"ece": (n * gap).sum() / n.sum(), "ace": gap.mean(), "mce": gap.max()}.items():
            assert mean[f"micro_{key}/{NAMES[k]}"] == pytest.approx(value, abs=1e-12)
            micro[key].append(value)
        assert mean[f"dice/{NAMES[k]}"] == pytest.approx(np.mean(dice), abs=1e-12)
        for key in ("ece", "ace", "mce"):
            of_monai = [protocol_case("monai", *case, NAMES)[f"{key}/{NAMES[k]}"] for case in CASES]
            assert mean[f"macro_{key}/{NAMES[k]}"] == pytest.approx(np.mean(of_monai), abs=1e-12)
    assert {key: mean[f"micro_{key}"] for key in micro} == pytest.approx({k: np.mean(v) for k, v in micro.items()})


def test_acl_adds_softmax_channels_for_the_brats_regions_and_leaves_out_absent_dice() -> None:
    probs, labels = CASES[0]
    labels = torch.where(labels == 3, 2, labels)
    names, composites = ("background", "NCR", "ED", "ET"), {"WT": (1, 2, 3), "TC": (1, 3)}
    found = protocol_case("acl", probs, labels, names, composites=composites)
    assert found["dice/ET"] is None
    inside, hit = probs[[1, 3]].sum(0) >= 0.5, labels == 1
    assert found["dice/TC"] == pytest.approx(float(2 * (inside & hit).sum() / (inside.sum() + hit.sum())))
    assert found["dice"] == pytest.approx((found["dice/TC"] + found["dice/WT"]) / 2)


def test_sigmoid_channels_are_scored_by_the_protocols_of_channels_only() -> None:
    probs, labels = CASES[0]
    groups = ((1, 2, 3), (1, 3), (3,))
    channels = torch.stack([probs[list(g)].sum(0) for g in groups]).clamp(max=1)
    options: dict[str, Any] = {"activation": "sigmoid", "groups": groups, "composites": {"WT": (1, 2, 3), "TC": (1, 3)}}
    names = ("background", "NCR", "ED", "ET")
    assert protocol_case("marginloss", channels, labels, names, **options) == {}
    assert protocol_case("svls", channels, labels, names, **options) == {}
    merged = protocol_case("acl", probs, labels, names, composites=options["composites"])
    assert shown(protocol_case("acl", channels, labels, names, **options)) == pytest.approx(shown(merged), abs=1e-6)
    assert "ece/TC" in protocol_case("monai", channels, labels, names, **options)


@pytest.mark.parametrize("name", PROTOCOLS)
def test_ignored_voxels_do_not_count(name: str) -> None:
    probs, labels = CASES[0]
    marked = labels.clone()
    marked[:, 14:] = 255
    found = protocol_case(name, probs, marked, NAMES, ignore_index=255)
    cut = protocol_case(name, probs[:, :, :14], labels[:, :14], NAMES)
    for number in (found, cut):
        number.pop("soft_brier", None)  # its window looks across the cut
    assert found == pytest.approx(cut, abs=1e-12)


@pytest.mark.parametrize("name", PROTOCOLS)
def test_logits_are_scored_as_their_softmax(name: str) -> None:
    probs, labels = CASES[0]
    found = protocol_case(name, probs.log() + 3, labels, NAMES, activation="logits")
    for key, value in protocol_case(name, probs, labels, NAMES).items():
        assert found[key] == pytest.approx(value, abs=1.1e-3 if key.startswith("bins/") else 1.1e-4), key


def test_a_case_stores_its_protocols_and_partial_labels_have_none() -> None:
    probs, labels = CASES[0]
    options: dict[str, Any] = {"case_id": "x", "class_names": NAMES, "distances": False, "protocols": tuple(PROTOCOLS)}
    case = score_case(probs, labels, **options)
    assert case.protocols == {name: protocol_case(name, probs, labels, NAMES) for name in PROTOCOLS}
    slabs = [(slice(4, 10), probs[..., 4:]), (slice(0, 4), probs[..., :4])]
    assert score_case(slabs, labels, **options).protocols == case.protocols
    partial = score_case(probs, labels, **options, labelled_classes=["RV"])
    assert partial.protocols == {name: {} for name in PROTOCOLS}


def test_no_case_has_no_mean_and_unknown_names_are_refused() -> None:
    for name in PROTOCOLS:
        assert all(value is None for value in protocol_mean(name, [{}]).values())
        assert len(protocol_text(name)) > 100
    with pytest.raises(ValueError, match="protocol must be one of marginloss, svls, monai, acl, got 'acdc'"):
        protocol_case("acdc", *CASES[0], NAMES)
    assert not math.isnan(sum(v for v in shown(protocol_case("acl", *CASES[0], NAMES)).values() if v is not None))
