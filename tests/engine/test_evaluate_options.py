"""Options of a run: masks, protocols and what may be assumed of predictions; each is part of what is reused."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from flat import contents, write_flat
from helpers import LPS
from typer.testing import CliRunner

from medcalib.cli import app
from medcalib.data.nifti import read_volume, write_volume
from medcalib.engine.evaluate import evaluate
from medcalib.engine.merge import merge
from medcalib.engine.shards import Shard
from medcalib.errors import ConfigError, DataError
from medcalib.metrics import CalibrationCounts, CaseScores

GOOD = ["case_0", "case_1"]


@pytest.fixture
def flat(tmp_path: Path) -> tuple[Path, Path]:
    """Predictions and labels of four cases, of which the third is damaged, and `lesion`, masks of the first two."""
    pair = write_flat(tmp_path, 4)
    for name in GOOD:
        inside = np.zeros((14, 12, 6), np.uint8)
        inside[3:9, 2:, int(name[-1]) :] = 7
        write_volume(tmp_path / "lesion" / f"{name}.nii.gz", inside, LPS)
    return pair


def test_a_mask_is_a_region_and_its_lack_refuses_the_case(flat: tuple[Path, Path], tmp_path: Path) -> None:
    masks = {"lesion": tmp_path / "lesion"}
    found = evaluate(*flat, tmp_path / "scores", masks=masks)
    assert list(found["cases"]) == GOOD
    assert {entry["case"]: entry["reason"] for entry in found["refused"]}["case_3"] == "missing_mask"
    assert "lesion holds no mask case_3.nii.gz" in found["refused"][1]["message"]
    assert str(tmp_path) not in json.dumps(found)
    total = CalibrationCounts.zeros(3)
    for name in GOOD:
        probs = np.moveaxis(read_volume(flat[0] / f"{name}.nii.gz").array, -1, 0).copy()
        label, mask = (read_volume(folder / f"{name}.nii.gz").array for folder in (flat[1], masks["lesion"]))
        tensors = [torch.from_numpy(array)[None] for array in (probs, label)]
        total += CalibrationCounts.from_probs(tensors[0], tensors[1].long(), mask=torch.from_numpy(mask > 0)[None])
    assert found["pooled"]["lesion"]["ece"] == total.ece()
    assert set(CaseScores.load(tmp_path / "scores" / "case_0.npz").inputs) == {
        "prediction", "label", "mask lesion", "settings"
    }  # fmt: skip


def test_another_mask_and_another_option_score_again(flat: tuple[Path, Path], tmp_path: Path) -> None:
    masks = {"lesion": tmp_path / "lesion"}
    evaluate(*flat, tmp_path / "scores", masks=masks)
    before = contents(tmp_path / "scores")
    shutil.copy(tmp_path / "lesion" / "case_0.nii.gz", tmp_path / "lesion" / "case_1.nii.gz")
    evaluate(*flat, tmp_path / "scores", masks=masks)
    after = contents(tmp_path / "scores")
    assert after["case_0.npz"] == before["case_0.npz"]
    assert after["case_1.npz"] != before["case_1.npz"]
    for options in ({}, {"protocols": ["marginloss"]}, {"assume_orientation": True}):
        evaluate(*flat, tmp_path / "scores", **options)  # type: ignore[arg-type]
        evaluate(*flat, tmp_path / "undisturbed", fresh=True, **options)  # type: ignore[arg-type]
        assert contents(tmp_path / "scores") == contents(tmp_path / "undisturbed")


def test_shards_with_masks_and_protocols_merge_to_one_run(flat: tuple[Path, Path], tmp_path: Path) -> None:
    options = {"masks": {"lesion": tmp_path / "lesion"}, "protocols": ("monai", "acl")}
    evaluate(*flat, tmp_path / "whole", **options)  # type: ignore[arg-type]
    for index in range(2):
        evaluate(*flat, tmp_path / "scores", shard=Shard(index, 2), **options)  # type: ignore[arg-type]
    found = merge([tmp_path / "scores"], tmp_path / "scores")
    assert contents(tmp_path / "scores") == contents(tmp_path / "whole")
    assert set(found["protocols"]) >= {"monai", "acl"}


def test_shards_with_other_masks_are_not_mixed(flat: tuple[Path, Path], tmp_path: Path) -> None:
    evaluate(*flat, tmp_path / "a", shard=Shard(0, 2), masks={"lesion": tmp_path / "lesion"})
    evaluate(*flat, tmp_path / "b", shard=Shard(1, 2))
    with pytest.raises(Exception, match="other classes, regions or settings"):
        merge([tmp_path / "a", tmp_path / "b"], tmp_path / "all")


def test_logits_are_taken_for_logits_when_the_caller_says_so(flat: tuple[Path, Path], tmp_path: Path) -> None:
    plain = evaluate(*flat, tmp_path / "plain")
    path = flat[0] / "case_0.nii.gz"
    write_volume(path, np.log(read_volume(path).array), LPS)
    side = json.loads((flat[0] / "case_0.json").read_text())
    del side["activation"]
    (flat[0] / "case_0.json").write_text(json.dumps(side))
    refused = evaluate(*flat, tmp_path / "scores")
    assert "case_0" not in refused["cases"]
    found = evaluate(*flat, tmp_path / "scores", assume_logits=True)
    ece = [numbers["cases"]["case_0"]["regions"]["all"]["ece"] for numbers in (plain, found)]
    assert ece[1] == pytest.approx(ece[0], abs=1e-6)  # float32 logarithms
    reasons = {entry["case"]: entry["reason"] for entry in found["refused"]}
    assert reasons["case_1"] == "activation_conflict"  # its sidecar says softmax


def test_names_are_checked_before_any_work(flat: tuple[Path, Path], tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"unknown protocol 'monay'; did you mean 'monai'\?"):
        evaluate(*flat, tmp_path / "scores", protocols=["monay"])
    for name in ("foreground", "dice", "../x", ""):
        with pytest.raises(ConfigError, match="a mask cannot be called"):
            evaluate(*flat, tmp_path / "scores", masks={name: tmp_path / "lesion"})
    with pytest.raises(DataError, match="is no folder of masks"):
        evaluate(*flat, tmp_path / "scores", masks={"lesion": tmp_path / "none"})
    assert not (tmp_path / "scores").exists()


def test_the_command_line_passes_them_on(flat: tuple[Path, Path], tmp_path: Path) -> None:
    pair = ["score", "--predictions", str(flat[0]), "--labels", str(flat[1]), "--out", str(tmp_path / "scores")]
    mask = ["--mask", f"lesion={tmp_path / 'lesion'}"]
    found = CliRunner().invoke(app, [*pair, *mask, "--protocol", "monai", "--protocol", "svls", "--json"])
    assert found.exit_code == 4
    numbers = json.loads(found.stdout)
    assert numbers["score"]["protocols"] == ["monai", "svls"]
    assert "lesion" in numbers["pooled"]
    for wrong in (["--mask", "lesion"], ["--mask", "=x"], [*mask, *mask]):
        failed = CliRunner().invoke(app, [*pair, *wrong])
        assert failed.exit_code == 2, failed.stderr
        assert "mask" in failed.stderr
