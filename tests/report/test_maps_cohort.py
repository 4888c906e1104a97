"""Maps of a cohort: patients weigh alike, ignored voxels do not count, and one grid is required."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
from helpers import LPS, smooth_case
from maps_cases import read_map, write_case

from medcalib.data.nifti import read_volume, write_volume
from medcalib.errors import DataError
from medcalib.report.maps import write_maps
from medcalib.report.maps.cohort import Cohort

SHAPE = (9, 10, 7)


def smooth(seed: int) -> tuple[np.ndarray, np.ndarray]:
    probs, label = smooth_case(seed, 4, SHAPE)
    return probs.numpy(), label.numpy()


def run(folder: Path, **options: Any) -> dict[str, Any]:
    return write_maps(folder / "pred", folder / "labels", folder / "maps", cohort=True, **options)


def cohort_map(folder: Path, name: str) -> np.ndarray:
    return read_volume(folder / f"cohort_{name}.nii.gz", dtype=None).array


def test_a_cohort_of_one_case_is_its_own_map(tmp_path: Path) -> None:
    write_case(tmp_path, "c0", *smooth(0))
    index = run(tmp_path)
    np.testing.assert_array_equal(cohort_map(tmp_path / "maps", "gap"), read_map(tmp_path / "maps", "c0", "gap"))
    np.testing.assert_array_equal(cohort_map(tmp_path / "maps", "error"), read_map(tmp_path / "maps", "c0", "error"))
    assert (cohort_map(tmp_path / "maps", "count") == 1).all()
    assert (index["cohort"]["patients"], index["cohort"]["cases"]) == (1, ["c0"])


def test_a_cohort_is_the_mean_over_its_cases_where_they_are_not_ignored(tmp_path: Path) -> None:
    for k in range(3):
        probs, label = smooth(k)
        label[:k] = 4
        write_case(tmp_path, f"c{k}", probs, label, ignore_code=4)
    index = run(tmp_path, window_voxels=3)
    gaps = [read_map(tmp_path / "maps", f"c{k}", "gap") for k in range(3)]
    errors = [read_map(tmp_path / "maps", f"c{k}", "error") for k in range(3)]
    valid = [read_map(tmp_path / "maps", f"c{k}", "label") != 255 for k in range(3)]
    count = np.sum(valid, 0)
    np.testing.assert_array_equal(cohort_map(tmp_path / "maps", "count"), count)
    np.testing.assert_allclose(cohort_map(tmp_path / "maps", "gap"), np.sum(gaps, 0) / count, atol=1e-7)
    np.testing.assert_allclose(cohort_map(tmp_path / "maps", "error"), np.sum(errors, 0) / count, atol=1e-7)
    header = nib.load(tmp_path / "maps" / "cohort_gap.nii.gz").header
    assert (float(header["cal_min"]), float(header["cal_max"])) == (-0.5, 0.5)
    assert float(nib.load(tmp_path / "maps" / "cohort_count.nii.gz").header["cal_max"]) == 3
    assert set(index["cohort"]["files"]) == {"cohort_gap", "cohort_error", "cohort_count"}


def test_patients_weigh_alike_however_many_cases_they_have(tmp_path: Path) -> None:
    """Two cases of patient A have gaps 0.2 and 0.4, one of B has 0.9: (0.3 + 0.9) / 2. A voxel where only the second
    of A counts holds (0.4 + 0.9) / 2, one where nobody counts holds 0."""
    valid = np.ones((3, 1, 1), bool)
    cohort = Cohort()
    pair = write_case(tmp_path, "x", *smooth(0))
    for case, patient, gap, counted in (
        ("a1", "A", 0.2, [1, 0, 0]), ("a2", "A", 0.4, [1, 1, 0]), ("b1", "B", 0.9, [1, 1, 0])
    ):  # fmt: skip
        valid = np.array(counted, bool)[:, None, None]
        maps = {"gap": (gap * valid).astype(np.float32), "error": valid.astype(np.uint8)}
        cohort.add(replace(pair, case=replace(pair.case, id=case, patient_id=patient)), LPS, maps, valid)
    facts = cohort.write(tmp_path, ["a1", "a2", "b1", "c1"])
    np.testing.assert_allclose(cohort_map(tmp_path, "gap").ravel(), [0.6, 0.65, 0], atol=1e-7)
    np.testing.assert_array_equal(cohort_map(tmp_path, "error").ravel(), [1, 1, 0])
    np.testing.assert_array_equal(cohort_map(tmp_path, "count").ravel(), [2, 2, 0])
    assert (facts["patients"], facts["left_out"]) == (2, ["c1"])


def test_what_the_cohort_needs_is_made_but_not_kept(tmp_path: Path) -> None:
    write_case(tmp_path, "c0", *smooth(0))
    index = run(tmp_path, maps=["confidence"])
    assert set(index["written"]["c0"]["files"]) == {"confidence"}
    assert cohort_map(tmp_path / "maps", "gap").any()
    assert not (tmp_path / "maps" / "c0_gap.nii.gz").exists()


def test_the_first_case_on_another_grid_is_named_before_anything_is_written(tmp_path: Path) -> None:
    for k in range(2):
        write_case(tmp_path, f"c{k}", *smooth(k))
    moved = LPS.copy()
    moved[0, 3] = 2
    write_case(tmp_path, "c2", *smooth(2), affine=moved)
    probs, label = smooth_case(3, 4, (9, 10, 8))
    write_case(tmp_path, "c3", probs.numpy(), label.numpy())
    with pytest.raises(DataError, match=r"c2 lies on another grid .* than c0 .*resampled to a common space") as caught:
        run(tmp_path)
    assert caught.value.reason == "cohort_grid"
    assert not (tmp_path / "maps").exists()
    for path in ("labels/c2.nii.gz", "pred/c2.nii.gz"):
        (tmp_path / path).unlink()
    with pytest.raises(DataError, match=r"c3 lies on another grid \(9 x 10 x 8 voxels"):
        run(tmp_path)


def test_a_refused_case_is_no_part_of_the_cohort(tmp_path: Path) -> None:
    for k in range(2):
        write_case(tmp_path, f"c{k}", *smooth(k))
    label = tmp_path / "labels" / "c1.nii.gz"
    label.write_bytes(label.read_bytes()[:-9])
    index = run(tmp_path)
    assert index["cohort"]["cases"] == ["c0"]
    assert [entry["case"] for entry in index["refused"]] == ["c1"]


def test_a_cohort_of_refused_cases_has_no_files(tmp_path: Path) -> None:
    write_case(tmp_path, "c0", *smooth(0))
    write_volume(tmp_path / "pred" / "c0.nii.gz", np.full((*SHAPE, 4), 0.4, np.float32), LPS)
    index = run(tmp_path)
    assert (index["cases"], index["cohort"]["files"]) == ([], {})
    assert not list((tmp_path / "maps").glob("cohort*"))
