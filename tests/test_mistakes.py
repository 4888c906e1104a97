"""Mistakes of users, through Python and the commands: each ends in what was expected, what came and the fix."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers import smooth_case

from medcalib import calibrators, losses
from medcalib.config import dump, load
from medcalib.config.bundled import bundled
from medcalib.errors import ConfigError, DataError, in_words
from medcalib.files import make_folder, write_json, write_text
from medcalib.metrics import CalibrationCounts, OverlapCounts, score_case
from medcalib.metrics.paired import compare
from medcalib.metrics.summary import summarize
from medcalib.metrics.surface import hd95_mm, surface_dice
from medcalib.ops import Scorer, neighborhood_proportions

PROBS, LABELS = (t[None] for t in smooth_case(shape=(6, 6, 5)))
LOGITS = PROBS.log()
NAMES = ["background", "RV", "MYO", "LV"]
COUNTS = CalibrationCounts.from_probs(PROBS, LABELS)
ce = losses.build("ce", 4)


def one(**changed: Any) -> Any:
    """Score the case with something changed."""
    given = {"probs": PROBS[0], "labels": LABELS[0], "case_id": "c", "class_names": NAMES, "distances": False}
    return score_case(**{**given, **changed})


MISTAKES: list[tuple[Callable[[], Any], str]] = [
    # losses
    (lambda: losses.build("MbLS", 4), r"unknown loss 'MbLS'; did you mean 'mbls'\?$"),
    (lambda: losses.build("mbls", 4, margin=np.float32(5)), r"margin must be a finite number, .*; give margin.item()"),
    (lambda: losses.build_terms([("margin", 0.1)], 4), r"expected terms as \(name, weight, hyperparameters\)"),  # type: ignore[list-item]
    (lambda: ce(LOGITS.numpy(), LABELS), r"logits must be .*Tensor, got a numpy array; use torch.from_numpy\(logits\)"),
    (lambda: ce([LOGITS, LOGITS], LABELS), "logits must be a torch.Tensor, got a list of 2; hand over its entries"),
    (lambda: ce(LOGITS, None), "labels must be a torch.Tensor, got NoneType"),
    (lambda: ce(LABELS, LOGITS), "logits must be floating-point numbers, got torch.uint8; are logits and labels swapp"),
    (lambda: ce(LOGITS[:, :3], LABELS), r"expected logits \(B, 4, \*S\), got .*num_classes=4 of them"),
    (lambda: ce(LOGITS, LABELS[:, None]), r"labels have no channel axis: use labels\[:, 0\]"),
    (lambda: ce(LOGITS, torch.zeros_like(PROBS)), r"of one-hot ones use labels.argmax\(1\)"),
    (lambda: ce(LOGITS, LABELS.to("meta")), r"logits are on cpu, labels on meta; use labels.to\(logits.device\)"),
    (
        lambda: losses.build("ce", 4, ignore_index=-1)(LOGITS, LABELS + 252),
        r"labels must lie in 0\.\.3, got 25\d\.\.255; ignored are only voxels labelled -1",
    ),
    (lambda: losses.build("ce", 4)(LOGITS, LABELS + 1), r"pass ignore_index=4 .*, else map the labels to 0\.\.3"),
    # counts
    (lambda: CalibrationCounts.from_probs(PROBS.numpy(), LABELS), "probs must be a torch.Tensor, got a numpy array"),
    (lambda: CalibrationCounts.from_probs(PROBS, LABELS.float()), "labels must be uint8.*; use labels.long()"),
    (lambda: CalibrationCounts.from_probs(PROBS, LABELS.to(torch.uint16)), "labels must be uint8.*got torch.uint16"),
    (lambda: CalibrationCounts.from_probs(PROBS, LABELS[:, None]), "labels have no channel axis"),
    (
        lambda: CalibrationCounts.from_probs(LOGITS.sigmoid(), LABELS),
        r"must sum to 1 .*was it a softmax \(no sigmoid\)",
    ),
    (lambda: CalibrationCounts.from_probs(PROBS.bfloat16(), LABELS), "torch.bfloat16 is too coarse"),
    (lambda: CalibrationCounts.from_logits(LABELS, LABELS), "logits must be floating-point numbers, got torch.uint8"),
    (lambda: CalibrationCounts.from_probs(PROBS, LABELS, ignore_index="255"), "ignore_index must be a whole number"),  # type: ignore[arg-type]
    (
        lambda: CalibrationCounts.from_probs(PROBS, torch.full_like(LABELS, 255), ignore_index=-1),
        r"labels must lie in 0\.\.3, got 255\.\.255; ignored are only voxels labelled -1",
    ),
    (lambda: CalibrationCounts.from_probs(PROBS, LABELS, mask=PROBS[:, 1]), "mask must hold only 0 and 1"),
    (lambda: CalibrationCounts.from_probs(PROBS, LABELS, posterior=PROBS[:, :3]), "expected a posterior"),
    (lambda: CalibrationCounts.from_probs(PROBS, LABELS, posterior=LOGITS), "they look like logits"),
    (lambda: COUNTS.ece(bins="15"), "bins must be one of .*, got '15'"),  # type: ignore[arg-type]
    (lambda: (COUNTS.ece(bins=15), COUNTS.ece(bins=15.0)), r"bins must be one of .*, got 15\.0"),  # type: ignore[arg-type]
    (lambda: COUNTS.ece_equal_mass(bins=0), "bins must be a whole number of 1 or more, got 0"),
    (lambda: COUNTS.ace_bins(channel=9), r"channel must lie in 0\.\.4 .*, got 9"),
    (lambda: COUNTS + CalibrationCounts.zeros(2), "cannot be added: they have 4 and 2, composites included"),
    (lambda: OverlapCounts.zeros(4) + OverlapCounts.zeros(1), "cannot be added: they have 4 and 1"),
    # cases
    (lambda: one(labels=LABELS[0].numpy()), r"labels must be .*; use torch.from_numpy\(labels\)"),
    (lambda: one(probs=PROBS[0].numpy()), r"probs must be .*; use torch.from_numpy\(probs\)"),
    (lambda: one(probs=PROBS, labels=LABELS), "expected spacing_mm with 4 numbers, .* neither batch nor channel axis"),
    (lambda: one(probs=PROBS, regions=["all"]), r"expected probabilities over \(6, 6, 5\).*leave out the batch axis"),
    (lambda: one(probs=[PROBS[0]]), r"or as slabs \(slice along the last axis"),
    (lambda: one(spacing_mm=(0.0, 1.0, 1.0)), "spacing_mm must hold positive sizes of a voxel in mm"),
    (lambda: one(class_names=4), "class_names must be a list with a name for each class"),
    (lambda: one(class_names=["b", "LV", "LV", "RV"]), "names 'LV' twice"),
    (lambda: one(labelled_classes=["LVX"]), "labelled_classes names 'LVX'; the classes are background, RV"),
    (
        lambda: one(composites={"heart": ("RV", "LV")}),
        r"composite 'heart' must list classes by their numbers in 0\.\.3",
    ),
    (lambda: one(masks=[LABELS[0] > 0]), "masks must map names to tensors"),
    (lambda: one(posterior=PROBS[0].numpy()), "posterior must be a torch.Tensor, got a numpy array"),
    (lambda: one(activation="sigmoid", groups=[1, 2, 3, 3]), "groups must list the label values of each channel"),
    (lambda: hd95_mm(np.ones((2, 2, 2), bool), np.ones((2, 2, 2), bool), (1.0, -1.0, 1.0)), "positive sizes"),
    (lambda: surface_dice(np.ones((2, 2), bool), np.ones((2, 2), bool), (1.0, 1.0), -1.0), "0 mm or more, got -1"),
    (lambda: summarize([one(), one()], expected=2, refused=[]), "case c is given twice"),
    (lambda: compare("a.json", "b.json", ["dice/LV"]), "the first is no content of a scores.json"),  # type: ignore[arg-type]
    # operations and calibrators
    (lambda: neighborhood_proportions(LABELS, 4, kernel_size=3.0), "kernel_size must be a whole number or a list"),  # type: ignore[arg-type]
    (lambda: neighborhood_proportions(LABELS, "4"), "num_classes must be a whole number, got '4'"),  # type: ignore[arg-type]
    (lambda: neighborhood_proportions(LABELS.numpy(), 4), "labels must be a torch.Tensor, got a numpy array"),  # type: ignore[arg-type]
    (lambda: neighborhood_proportions(LABELS[:, None], 4), "without a channel axis"),
    (lambda: Scorer(4, 1, composites=[1, 2]), "each group or composite must be a list of class numbers"),  # type: ignore[list-item]
    (lambda: Scorer("4", 1), "num_classes must be a whole number"),  # type: ignore[arg-type]
    (lambda: calibrators.build("temprature", 4), r"did you mean 'temperature'\?$"),
]


@pytest.mark.parametrize(("mistake", "words"), MISTAKES, ids=[words[:40] for _, words in MISTAKES])
def test_a_mistake_ends_in_words(mistake: Callable[[], Any], words: str) -> None:
    with pytest.raises(ValueError, match=words) as caught:
        mistake()
    assert len(str(caught.value)) < 500


def test_probabilities_in_place_of_logits_are_told(caplog: pytest.LogCaptureFixture) -> None:
    objective = losses.build("ce", 4)
    for _ in range(2):
        objective(PROBS, LABELS)
    assert caplog.text.count("remove that from the end of the network") == 1
    CalibrationCounts.from_logits(PROBS, LABELS)
    assert "the logits lie in [0, 1] and sum to 1 over the classes" in caplog.text
    caplog.clear()
    losses.build("ce", 4)(LOGITS, LABELS)
    CalibrationCounts.from_logits(LOGITS, LABELS)
    CalibrationCounts.from_logits(PROBS * 2, LABELS)
    assert [record for record in caplog.records if record.levelno >= logging.WARNING] == []


def test_a_value_that_the_type_of_labels_cannot_hold_ignores_nothing() -> None:
    for value in (-1, 300):
        assert CalibrationCounts.from_probs(PROBS, LABELS, ignore_index=value).voxels() == LABELS.numel()
    assert one(ignore_index=-1).regions["all"].calibration.voxels() == LABELS.numel()


def test_an_exception_in_words() -> None:
    assert in_words(KeyError("score")) == "it lacks 'score'"
    assert in_words(ValueError("no\nmore")) == "no"
    assert in_words(FileNotFoundError(2, "No such file or directory", "a.npz")) == "No such file or directory"
    loading = RuntimeError(
        "Error(s) in loading state_dict for UNet:\n\tsize mismatch for a.\n\tsize mismatch for b.\n\tc"
    )
    assert in_words(loading) == "size mismatch for a.; size mismatch for b."


def test_a_file_where_a_folder_is_to_be(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for path in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(ConfigError, match="cannot be a folder: it, or one above it, is a file"):
            make_folder(path)


def test_a_run_does_not_write_into_what_it_reads(tmp_path: Path) -> None:
    from medcalib.engine.predict import predict
    from medcalib.engine.train import train

    data, run = tmp_path / "data", tmp_path / "run"
    data.mkdir()
    config = load(bundled()["phantom"], data=str(data))
    with pytest.raises(ConfigError, match="data is the folder of the data; choose another --out"):
        train(config, data)
    write_text(run / "config.yaml", dump(config))
    for out in (run, data):
        with pytest.raises(ConfigError, match="is a folder that is read from; choose another --out"):
            predict(run, out)
    assert list(data.iterdir()) == []


def test_scores_without_tables_and_a_key_that_is_not_there(tmp_path: Path) -> None:
    from medcalib.engine.pseudonyms import Pseudonyms
    from medcalib.report.content import KEYS, read_methods

    write_json(tmp_path / "scores.json", {**{key: {} for key in KEYS}, "cases": []})
    with pytest.raises(DataError, match="cases and settings are no tables; score again"):
        read_methods([tmp_path])
    (tmp_path / "scores.json").rename(tmp_path / "shard-0-of-2.json")
    with pytest.raises(DataError, match="it holds shards only, make the whole of them by `medcalib merge`"):
        read_methods([tmp_path])
    with pytest.raises(ConfigError, match="the key file .*nokey cannot be read: No such file or directory"):
        Pseudonyms.from_file(tmp_path / "nokey")
