"""`medcalib check` on whole folders: the real ones pass, and what is wrong is named all at once."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from tiny import TINY
from typer.testing import CliRunner

from medcalib.cli import app
from medcalib.config import RunConfig, load
from medcalib.config.bundled import bundled
from medcalib.config.dataset import cases_and_split, scan
from medcalib.data.geometry import UNIT_AFFINE
from medcalib.data.load import load_case
from medcalib.data.predictions import write_prediction
from medcalib.engine.inspect import inspect

SIDES = ("training", "testing")
TWO_MODALITIES = ["data.layout.modalities=[flair, t1ce]"]


@pytest.mark.parametrize(
    ("name", "folder", "overrides", "cases", "warnings"),
    [
        ("acdc", "acdc", [], 24, {UNIT_AFFINE}),
        ("brats", "brats2013", [*TWO_MODALITIES, "split.folds=3"], 4, set()),
        ("brats", "brats_tcga_auto/BraTS2021_Training_Data", [], 1, {"empty_split"}),
        ("flare22", "abdomen_ct_auto", [], 1, {"empty_split"}),
        ("msd_hippocampus", "msd_hippocampus", [], 208, set()),
    ],
)
def test_every_real_folder_passes(
    real: Path, name: str, folder: str, overrides: list[str], cases: int, warnings: set[str]
) -> None:
    found = inspect(load(bundled()[name], data=str(real / folder), overrides=overrides))
    assert not found.refused, found.problems
    assert found.facts["cases"] == found.facts["with_label"] == cases
    assert {problem.reason for problem in found.problems} == warnings


def test_a_real_folder_without_two_modalities_names_them_all(real: Path) -> None:
    found = inspect(load(bundled()["brats"], data=str(real / "brats2013")))
    assert found.refused
    missing = [problem for problem in found.problems if problem.reason == "missing_modality"]
    assert len(missing) == 4
    assert all("t1, t2" in problem.message for problem in missing)


def test_a_prediction_for_real_acdc_has_the_repaired_grid_and_the_codes(real: Path, tmp_path: Path) -> None:
    """Rule: a saved prediction must not carry the unit voxels on."""
    config = load(bundled()["acdc"], data=str(real / "acdc"))
    case = scan(config.data, config.root)[0][0]
    loaded = load_case(case, config.data.label_map)
    assert loaded.label is not None
    probs = np.eye(4, dtype=np.float32)[loaded.label].transpose(3, 0, 1, 2)
    write_prediction(tmp_path, case, probs, loaded.affine, config.data.label_map, {})
    assert case.label is not None
    source, written = nib.load(case.label), nib.load(tmp_path / "segmentations" / f"{case.id}.nii.gz")
    np.testing.assert_array_equal(written.get_fdata(), source.get_fdata())
    assert written.get_data_dtype() == np.uint8
    zooms = source.header.get_zooms()
    np.testing.assert_allclose(written.header.get_zooms(), zooms)
    np.testing.assert_allclose(np.linalg.norm(written.affine[:3, :3], axis=0), zooms)


@pytest.mark.fault(19, 33, 36, 37)
def test_every_problem_of_a_folder_is_reported_at_once(tiny: RunConfig, phantom: Path, tmp_path: Path) -> None:
    data = Path(shutil.copytree(phantom, tmp_path / "data"))
    images = sorted((data / "training").rglob("*_frame*_gt.nii.gz"))
    images[0].write_bytes(images[0].read_bytes()[:-9])
    stored = nib.load(images[1])
    nib.save(nib.Nifti1Image(np.full(stored.shape, 7, np.uint8), stored.affine), images[1])
    nib.save(nib.Nifti1Image(np.zeros((4, 4, 4), np.uint8), stored.affine), images[2])
    images[3].unlink()
    (images[4].parent / "Info.cfg").unlink()
    found = inspect(tiny.model_copy(update={"data": tiny.data.model_copy(update={"root": str(data)})}))
    reasons = {problem.reason for problem in found.problems}
    assert {"damaged_gzip", "unknown_label", "shape_mismatch", "no_label", "missing_info"} <= reasons
    assert found.refused
    unknown = next(problem for problem in found.problems if problem.reason == "unknown_label")
    assert f"7 ({np.prod(stored.shape):,} voxels)" in unknown.message


def thinner(phantom: Path, folder: Path, *patients: str) -> RunConfig:
    """A copy of the phantom in which some patients have two slices fewer than the six of the others."""
    data = Path(shutil.copytree(phantom, folder))
    for path in (file for patient in patients for file in data.rglob(f"{patient}_*.nii.gz")):
        stored = nib.load(path)
        nib.save(stored.slicer[:, :, 1:5], path)
    return load(bundled()["phantom"], data=str(data), overrides=[*TINY, "train.patch_size=[16, 16, 6]"])


def test_a_volume_thinner_than_the_patch_is_told_where_no_training_case_is(phantom: Path, tmp_path: Path) -> None:
    plain = load(bundled()["phantom"], data=str(phantom), overrides=TINY)
    split = cases_and_split(plain)
    held_out, trained = split["test"][0].patient_id, split["train"][0].patient_id
    told = [p for p in inspect(thinner(phantom, tmp_path / "a", held_out)).problems if p.reason == "thin_volume"]
    assert {p.where for p in told} == {case.id for case in split["test"] if case.patient_id == held_out}
    assert all(p.level == "warning" and "has 28 x 28 x 4 voxels once preprocessed" in p.message for p in told)
    assert all("less than `train.patch_size` along axis 2:" in p.message for p in told)
    for name, patients in (("b", ()), ("c", (held_out, trained))):
        assert "thin_volume" not in {p.reason for p in inspect(thinner(phantom, tmp_path / name, *patients)).problems}


def test_a_class_that_is_not_declared_is_one_line_and_each_case_in_the_json(phantom: Path) -> None:
    data = ["check", "phantom", "--data", str(phantom), "--set", "data.labels={background: 0, RV: 1, MYO: 2}"]
    settings = ["--set", "data.convention=null", "--set", "split.folds=3"]
    found = CliRunner().invoke(app, [*data, *settings])
    assert found.exit_code == 3
    lines = found.stderr.splitlines()  # of training/ and testing/
    assert [int(line.split()[1]) for line in lines] == [len(list(phantom.glob(f"{p}/*/*_gt.nii.gz"))) for p in SIDES]
    assert lines[0].startswith("error: 8 cases (patient001_frame01, patient001_frame13, ...): the first: ")
    assert all("_gt.nii.gz: label code 3 (" in line for line in lines)
    listed = json.loads(CliRunner().invoke(app, [*data, *settings, "--json"]).stdout)["problems"]
    assert len([p for p in listed if p["reason"] == "unknown_label"]) == len({p["where"] for p in listed}) == 12
