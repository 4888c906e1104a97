"""The scores in a loop are those of `CalibrationCounts`, whatever the batches and the ranks."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers import leave_group, smooth_case
from torch import Tensor, multiprocessing
from torch import distributed as dist

from medcalib.integrations.pooled import PooledCalibration, class_indices
from medcalib.metrics import CalibrationCounts, score_case

SCORES = ("ece", "classwise_ece", "ace_bins", "mce", "ece_equal_mass")


def batch(images: int = 5, classes: int = 3) -> tuple[Tensor, Tensor]:
    """values (B, C, *S) and labels (B, *S) of several smooth cases."""
    cases = [smooth_case(k, classes, (10, 9, 8)) for k in range(images)]
    return torch.stack([probs for probs, _ in cases]), torch.stack([labels for _, labels in cases])


@pytest.mark.parametrize("score", SCORES)
def test_batches_of_any_size_equal_the_counts_of_everything(score: Any) -> None:
    probs, labels = batch()
    counts = CalibrationCounts.from_probs(probs, labels)
    expected = counts.ece_equal_mass(12) if score == "ece_equal_mass" else getattr(counts, score)(12, "left")
    for sizes in ((5,), (1, 1, 1, 1, 1), (2, 3)):
        metric = PooledCalibration(3, score=score, bins=12, edges="left")
        for values, reference in zip(probs.split(sizes), labels.split(sizes), strict=True):
            metric.update(values, reference)
        assert torch.equal(metric.compute(), torch.as_tensor(expected, dtype=torch.float64))


@pytest.mark.parametrize("region", ["all", "foreground", "gt_foreground", "pred_foreground"])
def test_regions_are_those_of_scored_cases(region: Any) -> None:
    probs, labels = batch(1)
    case = score_case(probs[0], labels[0], case_id="a", class_names=("background", "a", "b"), distances=False)
    metric = PooledCalibration(3, region=region)
    metric.update(probs, labels)
    assert metric.compute() == case.regions[region].calibration.ece()


def test_logits_are_what_the_caller_says() -> None:
    probs, labels = batch(2)
    logits = probs.clamp_min(1e-6).log()
    metric = PooledCalibration(3, from_logits=True)
    metric.update(logits, labels)
    assert metric.compute() == CalibrationCounts.from_logits(logits, labels).ece()
    with pytest.raises(ValueError, match="look like logits"):
        PooledCalibration(3).update(logits, labels)


def test_ignored_voxels_leave() -> None:
    probs, labels = batch(2)
    labels[0, :4] = 255
    metric = PooledCalibration(3, ignore_index=255, region="foreground")
    metric.update(probs, labels)
    mask = ((labels > 0) | (probs.argmax(1) > 0)) & (labels != 255)
    labels[labels == 255] = 0
    assert metric.compute() == CalibrationCounts.from_probs(probs, labels, mask=mask).ece()


def test_reset_forgets_and_nothing_is_nan() -> None:
    metric = PooledCalibration(3)
    assert math.isnan(metric.compute())
    metric.update(*batch(1))
    assert metric.compute() > 0
    metric.reset()
    assert math.isnan(metric.compute())


def test_the_state_does_not_grow() -> None:
    metric = PooledCalibration(3)
    probs, labels = batch(2)
    before = metric.tables.shape
    for _ in range(3):
        metric.update(probs, labels)
    assert metric.tables.shape == before
    assert metric.tables.dtype == torch.int64
    assert set(vars(metric)) == {
        "num_classes", "score", "bins", "edges", "region", "ignore_index", "from_logits", "tables"
    }  # fmt: skip


def test_labels_come_as_indices_or_one_hot() -> None:
    probs, labels = batch(2)
    onehot = torch.nn.functional.one_hot(labels.long(), 3).movedim(-1, 1)
    for given in (labels, labels[:, None], labels.float(), onehot, onehot.float()):
        assert torch.equal(class_indices(probs, given), labels.long())
    with pytest.raises(ValueError, match="must be one-hot"):
        class_indices(probs, probs)
    with pytest.raises(ValueError, match="whole numbers"):
        class_indices(probs, labels + 0.5)
    with pytest.raises(ValueError, match="expected labels"):
        PooledCalibration(3).update(probs, labels[:, :5])


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"score": "ace"}, "score must be one of ece, classwise_ece"),
        ({"region": "liver"}, "region must be one of all"),
        ({"bins": 7}, "bins must be one of"),
        ({"edges": "both"}, "edges must be"),
        ({"num_classes": 1}, "background included"),
    ],
)
def test_bad_options_are_refused_at_once(options: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        PooledCalibration(**{"num_classes": 3, **options})


def test_values_of_other_classes_are_refused() -> None:
    with pytest.raises(ValueError, match=r"expected values \(B, 4, \*S\), got \(1, 3, 10, 9, 8\)"):
        PooledCalibration(4).update(*batch(1))


SHARDS = {"unequal": (slice(0, 4), slice(4, 5)), "one empty": (slice(0, 0), slice(0, 5))}


def one_rank(rank: int, store: str, shards: tuple[slice, slice], out: str) -> None:
    dist.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=2)
    probs, labels = batch()
    found = {}
    for score in SCORES:
        metric = PooledCalibration(3, score=score)  # type: ignore[arg-type]
        for values, reference in zip(probs[shards[rank]], labels[shards[rank]], strict=True):
            metric.update(values[None], reference[None])
        found[score] = metric.compute()
    torch.save(found, f"{out}/{rank}.pt")
    leave_group()


@pytest.mark.parametrize("shards", SHARDS)
def test_two_ranks_equal_one_process_bit_for_bit(tmp_path: Path, shards: str) -> None:
    arguments = (str(tmp_path / "store"), SHARDS[shards], str(tmp_path))
    multiprocessing.spawn(one_rank, arguments, nprocs=2)  # type: ignore[no-untyped-call]
    for score in SCORES:
        alone = PooledCalibration(3, score=score)  # type: ignore[arg-type]
        alone.update(*batch())
        for rank in (0, 1):
            assert torch.equal(torch.load(tmp_path / f"{rank}.pt", weights_only=True)[score], alone.compute())
