"""A case's scores: composites, partial labels, ignored voxels, and files that cannot run anything."""

from __future__ import annotations

import json
import math
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers import smooth_case
from torch import Tensor

from medcalib.errors import DataError
from medcalib.metrics import CalibrationCounts, CaseScores, score_case
from medcalib.metrics.case import FORMAT

NAMES = ("background", "NCR", "ED", "ET")
COMPOSITES = {"WT": (1, 2, 3), "TC": (1, 3)}
PROBS, LABELS = smooth_case(0)


def score(probs: Tensor = PROBS, labels: Tensor = LABELS, **options: Any) -> CaseScores:
    return score_case(probs, labels, **({"case_id": "c1", "class_names": NAMES, "distances": False} | options))


def equal(a: CaseScores, b: CaseScores) -> bool:
    """Equality to the last bit of everything that is stored."""
    same = (a.case_id, a.patient_id, a.channels, a.num_classes, a.labelled) == (
        b.case_id,
        b.patient_id,
        b.channels,
        b.num_classes,
        b.labelled,
    )
    same &= a.spacing_mm == pytest.approx(b.spacing_mm) and list(a.regions) == list(b.regions)
    for name in ("hd95_mm", "surface_dice"):
        same &= np.array_equal(getattr(a, name), getattr(b, name), equal_nan=True)
    for name in ("binary", "settings", "masks", "protocols", "warnings", "inputs"):
        same &= getattr(a, name) == getattr(b, name)
    for first, second in (
        (a.overlap, b.overlap),
        (a.volumes, b.volumes),
        *((a.regions[n].calibration, b.regions[n].calibration) for n in a.regions),
    ):
        for name, value in vars(first).items():
            other = getattr(second, name)
            same &= (value is None and other is None) or torch.equal(value, other)
    return same and all(
        torch.equal(a.regions[n].sums.limbs, b.regions[n].sums.limbs)
        and a.regions[n].sums.voxels == b.regions[n].sums.voxels
        for n in a.regions
    )


def test_regions_are_the_voxels_that_their_names_say() -> None:
    predicted = PROBS.argmax(0)
    found = {name: region.calibration.voxels() for name, region in score().regions.items()}
    assert found == {
        "all": LABELS.numel(),
        "foreground": int(((LABELS > 0) | (predicted > 0)).sum()),
        "gt_foreground": int((LABELS > 0).sum()),
        "pred_foreground": int((predicted > 0).sum()),
        "boundary": LABELS.numel(),
    }
    masked = CalibrationCounts.from_probs(PROBS[None], LABELS[None], mask=(LABELS > 0)[None])
    assert torch.equal(score().regions["gt_foreground"].calibration.n, masked.n)


def test_a_composite_equals_adding_the_probabilities() -> None:
    case = score(composites=COMPOSITES)
    assert case.channels == (*NAMES, "WT", "TC")
    for index, members in enumerate(COMPOSITES.values()):
        inside = PROBS[list(members)].double().sum(0).clamp(max=1)
        binary = torch.stack([1 - inside, inside])
        labels = torch.isin(LABELS, torch.tensor(members, dtype=LABELS.dtype))
        expected = CalibrationCounts.from_probs(binary[None], labels[None].to(torch.uint8)).classwise_ece()[1]
        found = case.regions["all"].calibration.classwise_ece()[4 + index]
        assert float(found) == pytest.approx(float(expected), abs=1e-12)
        predicted = torch.isin(PROBS.argmax(0), torch.tensor(members))
        dice = 2 * (predicted & labels).sum() / (predicted.sum() + labels.sum())
        assert float(case.overlap.dice()[4 + index]) == pytest.approx(float(dice))


def test_dice_of_a_composite_is_of_the_winning_class_not_of_the_added_probability() -> None:
    """0.3 + 0.25 outweighs 0.45, but a segmentation shows the top label, which is background."""
    probs = torch.tensor([0.45, 0.3, 0.25, 0.0])[:, None, None, None]
    case = score(probs, torch.ones(1, 1, 1, dtype=torch.uint8), composites=COMPOSITES)
    assert float(case.overlap.dice()[4]) == 0.0


def test_ignored_voxels_count_nowhere() -> None:
    labels = LABELS.clone()
    labels[:, :12] = 255
    ignored = score(labels=labels, ignore_index=255, composites=COMPOSITES, distances=True)
    cut = score(PROBS[:, :, 12:], LABELS[:, 12:], composites=COMPOSITES)
    for name in cut.regions:
        assert torch.equal(ignored.regions[name].calibration.n, cut.regions[name].calibration.n)
        assert torch.equal(ignored.regions[name].sums.limbs, cut.regions[name].sums.limbs)
    assert torch.equal(ignored.overlap.tp, cut.overlap.tp)
    assert torch.equal(ignored.overlap.fp, cut.overlap.fp)


def test_a_case_of_ignored_voxels_only_has_no_score() -> None:
    case = score(labels=torch.full_like(LABELS, 255), ignore_index=255)
    assert case.regions["all"].calibration.voxels() == 0
    assert math.isnan(case.regions["all"].calibration.ece())
    assert torch.isnan(case.overlap.dice()).all()


def test_without_foreground_the_foreground_regions_are_empty_and_all_is_defined() -> None:
    probs = torch.zeros(4, 3, 3, 3)
    probs[0], probs[1] = 0.75, 0.25
    case = score(probs, torch.zeros(3, 3, 3, dtype=torch.uint8), distances=True)
    assert case.regions["all"].calibration.ece() == 0.25
    assert math.isnan(case.regions["foreground"].calibration.ece())
    assert np.isnan(case.hd95_mm).all()


def test_distances_are_in_mm_per_foreground_channel() -> None:
    labels = torch.zeros(8, 8, 8, dtype=torch.uint8)
    labels[2, 2, 2] = 1
    predicted = torch.zeros_like(labels)
    predicted[2, 2, 4] = 1
    probs = torch.nn.functional.one_hot(predicted.long(), 4).movedim(-1, 0).float()
    case = score(probs, labels, spacing_mm=(1.0, 1.0, 5.0), composites=COMPOSITES, distances=True)
    assert case.hd95_mm == pytest.approx((math.nan, 10, math.nan, math.nan, 10, 10), nan_ok=True)
    assert score(probs, labels).hd95_mm == ()


def test_partial_labels_leave_out_what_they_must() -> None:
    """ED was not looked for: its scores, the background's, the top label's and those of its unions fall away."""
    labels = torch.where(LABELS == 2, 0, LABELS)
    case = score(labels=labels, composites=COMPOSITES, labelled_classes=["NCR", "ET"], distances=True)
    full = score(labels=labels, composites=COMPOSITES, distances=True)
    assert dict(zip(case.channels, case.labelled, strict=True)) == {
        "background": False,
        "NCR": True,
        "ED": False,
        "ET": True,
        "WT": False,
        "TC": True,
    }
    for name, region in case.regions.items():
        ece, expected = region.calibration.classwise_ece(), full.regions[name].calibration.classwise_ece()
        assert torch.isnan(ece).tolist() == [True, False, True, False, True, False]
        assert torch.equal(ece[~torch.isnan(ece)], expected[~torch.isnan(ece)])
        assert math.isnan(region.calibration.ece())
        assert math.isnan(region.sums.brier())
    assert np.isnan(case.hd95_mm).tolist() == [True, False, True, False, True, False]
    assert case.hd95_mm[5] == full.hd95_mm[5]


def test_naming_every_class_is_a_complete_label() -> None:
    assert equal(score(labelled_classes=["ET", "ED", "NCR"]), score())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"probs": PROBS[:3]}, "4 classes are named, the probabilities have 3 channels"),
        ({"probs": PROBS * 0.99}, "must sum to 1 over the 4 classes, the worst voxel is off by 0.01"),
        ({"probs": PROBS * 0}, "must sum to 1"),
        ({"probs": PROBS.masked_fill(LABELS == 0, float("nan"))}, "NaN or infinite"),
        ({"probs": PROBS.masked_fill(LABELS == 0, float("inf"))}, "NaN or infinite"),
        ({"probs": PROBS - 0.005}, r"must lie in \[0, 1\], got -0\.00"),
        ({"probs": PROBS.log()}, "they look like logits"),
        ({"probs": PROBS * 255}, "must lie in"),
        ({"labels": LABELS + 1}, r"labels must lie in 0\.\.3, got 1\.\.4"),
        (
            {"labels": LABELS[1:]},
            r"expected probabilities over \(19, 24, 10\), .*, got \(20, 24, 10\)",
        ),
    ],
)
def test_bad_predictions_and_labels_are_refused(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        score(**change)


def test_half_precision_is_accepted_when_its_sums_hold() -> None:
    half = PROBS.half()
    assert score(half).regions["all"].calibration.ece() == pytest.approx(
        score().regions["all"].calibration.ece(), abs=1e-3
    )


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"composites": COMPOSITES, "distances": True},
        {"posterior": PROBS},
        {"masks": {"m": LABELS > 1}, "boundary_mm": 1.0, "surface_tolerance_mm": 2.0},
        {"protocols": ("marginloss", "svls", "monai", "acl"), "warnings": ["w 1"], "inputs": {"label": "sha256:0"}},
    ],
)
def test_what_is_saved_is_loaded_equal(tmp_path: Path, options: dict[str, Any]) -> None:
    case = score(patient_id="p1", spacing_mm=(1.5, 1.5, 10.0), labelled_classes=["NCR", "ET"], **options)
    case.save(tmp_path / "c1.npz")
    assert equal(CaseScores.load(tmp_path / "c1.npz"), case)
    complete = score(**options)
    complete.save(tmp_path / "c1.npz")
    assert equal(CaseScores.load(tmp_path / "c1.npz"), complete)


class Canary:
    """Unpickling it would make a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.path,)


def test_a_pickle_in_a_score_file_is_never_run(tmp_path: Path) -> None:
    objects = np.array([Canary(tmp_path / "canary")], dtype=object)
    np.savez(tmp_path / "a.npz", meta=objects)
    np.save(tmp_path / "b.npy", objects)
    for name in ("a.npz", "b.npy"):
        with pytest.raises(DataError, match="is no readable case score"):
            CaseScores.load(tmp_path / name)
    assert not (tmp_path / "canary").exists()
    np.load(tmp_path / "a.npz", allow_pickle=True)["meta"]  # the canary would have sung
    assert (tmp_path / "canary").exists()


def test_every_truncation_of_a_score_file_is_refused(tmp_path: Path) -> None:
    score().save(tmp_path / "good.npz")
    good = (tmp_path / "good.npz").read_bytes()
    for length in (0, 1, 100, len(good) // 2, len(good) - 30, len(good) - 1):
        (tmp_path / "bad.npz").write_bytes(good[:length])
        with pytest.raises(DataError, match=r"bad\.npz is no readable case score"):
            CaseScores.load(tmp_path / "bad.npz")


def test_a_flipped_bit_in_a_score_file_is_refused_or_changes_nothing(
    tmp_path: Path, record_property: Callable[[str, object], None]
) -> None:
    """Some bits, such as those of times, say nothing about the scores."""
    case = score()
    case.save(tmp_path / "x.npz")
    good, flips, refused = (tmp_path / "x.npz").read_bytes(), np.random.default_rng(0), 0
    for _ in range(200):
        bad = bytearray(good)
        bad[flips.integers(len(bad))] ^= 1 << int(flips.integers(8))
        (tmp_path / "x.npz").write_bytes(bad)
        try:
            assert equal(CaseScores.load(tmp_path / "x.npz"), case)
        except DataError:
            refused += 1
    assert refused > 150
    record_property("measured", f"200 flips in a score file: {refused} refused, none read wrongly")


@pytest.mark.parametrize(
    "meta", [b"", b"[]", b"3", b"{}", b'{"format": 999}', b'{"format": 1}', b'{"format": 1, "case_id": "x"}', b"\xff"]
)
def test_a_foreign_file_is_refused(tmp_path: Path, meta: bytes) -> None:
    np.savez(tmp_path / "x.npz", meta=np.frombuffer(meta, np.uint8), overlap=np.zeros((3, 4), np.int64))
    with pytest.raises(DataError, match="is no readable case score"):
        CaseScores.load(tmp_path / "x.npz")


@pytest.mark.parametrize(
    "drop", ["overlap", "hd95_mm", "surface_dice", "volumes/predicted", "all/n", "all/sums", "all/scalars"]
)
def test_a_score_file_without_one_of_its_tables_is_refused(tmp_path: Path, drop: str) -> None:
    score().save(tmp_path / "x.npz")
    with np.load(tmp_path / "x.npz") as stored:
        np.savez(tmp_path / "y.npz", **{name: stored[name] for name in stored.files if name != drop})
    with pytest.raises(DataError, match="is no readable case score"):
        CaseScores.load(tmp_path / "y.npz")


def test_another_version_of_the_format_says_so(tmp_path: Path) -> None:
    score().save(tmp_path / "x.npz")
    with np.load(tmp_path / "x.npz") as stored:
        arrays = {name: stored[name] for name in stored.files}
    meta = json.loads(arrays["meta"].tobytes()) | {"format": 999}
    np.savez(tmp_path / "x.npz", **arrays | {"meta": np.frombuffer(json.dumps(meta).encode(), np.uint8)})
    with pytest.raises(DataError, match=rf"format 999, this version reads {FORMAT}\); score again"):
        CaseScores.load(tmp_path / "x.npz")


def test_a_bomb_is_refused_before_it_is_unpacked(tmp_path: Path) -> None:
    with (
        zipfile.ZipFile(tmp_path / "x.npz", "w", zipfile.ZIP_DEFLATED) as packed,
        packed.open("meta.npy", "w") as member,
    ):
        for _ in range(300):
            member.write(bytes(1 << 20))
    assert (tmp_path / "x.npz").stat().st_size < 1 << 20
    with pytest.raises(DataError, match="unpacks to more than"):
        CaseScores.load(tmp_path / "x.npz")
