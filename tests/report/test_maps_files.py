"""A folder of maps: headers that viewers understand, whole cases or none, and an index that describes what is there."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk  # noqa: N813 - its documented name
from helpers import LPS, smooth_case
from maps_cases import NAMES, compared, one, read_map, windowed, write_case

from medcalib.config.schema import DataConfig
from medcalib.data.nifti import write_volume
from medcalib.errors import ConfigError, DataRefusedError
from medcalib.files import write_json
from medcalib.report.maps import INDEX, KINDS, maps_of, write_maps

SHAPE = (9, 10, 7)
OBLIQUE = np.array([[-1.4, 0.3, 0.2, 20.0], [0.3, -1.4, 0.1, 30.0], [0.1, 0.1, 7.0, -40.0], [0, 0, 0, 1]])
AFFINES = {"LPS": LPS, "PSL": np.array([[0, 0, -4.0, 5], [-2.0, 0, 0, 6], [0, 3.0, 0, 7], [0, 0, 0, 1]])}
RANGES = {
    **dict.fromkeys(("confidence", "entropy", "LV_probability"), (0.0, 1.0)),
    **dict.fromkeys(("gap", "true_gap", "LV_gap", "LV_true_gap"), (-0.5, 0.5)),
    "error": (0.0, 1.0), "label": (0.0, 3.0), "prediction": (0.0, 3.0), "region": (0.0, 2.0),
}  # fmt: skip
INDICES = ("error", "label", "prediction", "region")

DATA = DataConfig.model_validate(
    {
        "layout": {"name": "files", "images": ("images/{case}.nii.gz",), "label": "labels/{case}.nii.gz"},
        "labels": {name: (k,) for k, name in enumerate(NAMES)},
        "composites": {"heart": ("RV", "MYO", "LV")},
    }
)


def smooth(seed: int) -> tuple[np.ndarray, np.ndarray]:
    probs, label = smooth_case(seed, 4, SHAPE)
    return probs.numpy(), label.numpy()


def run(folder: Path, **options: Any) -> dict[str, Any]:
    return write_maps(folder / "pred", folder / "labels", folder / "maps", **options)


@pytest.fixture(scope="module")
def three(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Cases c0, c1, c2, of which c1 has a known posterior, and their maps."""
    folder = tmp_path_factory.mktemp("maps")
    for k in range(3):
        write_case(folder, f"c{k}", *smooth(k), affine=AFFINES["PSL"] if k == 2 else LPS)
    write_volume(folder / "labels" / "c1_posterior.nii.gz", np.moveaxis(smooth(7)[0], 0, -1), LPS)
    run(folder, classes=["LV"], window_voxels=(5, 3, 1))
    return folder


def test_headers_say_what_a_map_is_and_how_to_show_it(three: Path) -> None:
    for name, (low, high) in RANGES.items():
        path = three / "maps" / f"c1_{name}.nii.gz"
        image = nib.load(path)
        header = image.header
        assert image.shape == SHAPE
        assert header.get_data_dtype() == (np.uint8 if name in INDICES else np.float32), name
        assert (float(header["cal_min"]), float(header["cal_max"])) == (low, high), name
        assert header.get_intent()[0] == ("label" if name in INDICES else "estimate"), name
        assert header.get_xyzt_units()[0] == "mm"
        assert (int(header["sform_code"]), int(header["qform_code"])) == (1, 1)
        assert header["descrip"].item().decode().startswith(f"medcalib {name.removeprefix('LV_')}"), name
        itk = sitk.ReadImage(str(path))
        assert (float(itk.GetMetaData("cal_min")), float(itk.GetMetaData("cal_max"))) == (low, high), name
        assert itk.GetMetaData("descrip") == header["descrip"].item().decode()
    assert nib.load(three / "maps" / "c1_LV_gap.nii.gz").header["descrip"].item() == (
        b"medcalib gap: mean probability - share of label, 5x3x1 voxels, of LV"
    )


def test_headers_hold_nothing_else(three: Path) -> None:
    for path in (three / "maps").glob("*.nii.gz"):
        header = nib.load(path).header
        assert not any(header[key].item() for key in ("aux_file", "db_name", "intent_name", "session_error"))
        assert not len(header.extensions)
        packed = path.read_bytes()
        assert packed[3] == 0  # no name of a file, no comment in the gzip header
        assert packed[4:8] == bytes(4)  # no time


@pytest.mark.parametrize("case", ["c0", "c2"])
def test_maps_lie_where_the_label_lies(three: Path, case: str) -> None:
    label = three / "labels" / f"{case}.nii.gz"
    reference = sitk.ReadImage(str(label))
    for name in ("gap", "region", "LV_probability"):
        path = three / "maps" / f"{case}_{name}.nii.gz"
        np.testing.assert_allclose(nib.load(path).affine, nib.load(label).affine, atol=1e-5)
        found = sitk.ReadImage(str(path))
        for get in ("GetOrigin", "GetSpacing", "GetDirection", "GetSize"):
            np.testing.assert_allclose(getattr(found, get)(), getattr(reference, get)(), atol=1e-5)


def test_an_oblique_grid_is_kept(tmp_path: Path) -> None:
    axes = np.linalg.qr(OBLIQUE[:3, :3])[0] * [1.5, 1.5, 7.0]
    affine = OBLIQUE.copy()
    affine[:3, :3] = axes
    write_case(tmp_path, "c0", *smooth(0), affine=affine)
    run(tmp_path)
    image = nib.load(tmp_path / "maps" / "c0_gap.nii.gz")
    np.testing.assert_allclose(image.affine, affine, atol=1e-4)
    np.testing.assert_allclose(image.header.get_qform(), affine, atol=1e-3)


def test_files_hold_what_is_made_in_memory(three: Path) -> None:
    expected = maps_of(compared(*smooth(0)), request=windowed(5, 3, 1, channels=[one(3)]))
    for name, volume in expected.items():
        np.testing.assert_array_equal(read_map(three / "maps", "c0", name), volume, err_msg=name)


def test_the_index_describes_what_is_there(three: Path) -> None:
    index = json.loads((three / "maps" / INDEX).read_text())
    assert index["cases"] == ["c0", "c1", "c2"]
    assert (index["window_mm"], index["window_voxels"], index["boundary_mm"]) == (None, [5, 3, 1], 3.0)
    assert index["maps"] == {name: kind.text for name, kind in KINDS.items()}
    assert index["classes"] == {"LV": "LV"}
    assert index["written"]["c0"]["window_mm"] == [7.5, 4.5, 8.0]
    assert index["written"]["c2"]["window_mm"] == [10.0, 9.0, 4.0]
    listed = {file for entry in index["written"].values() for file in entry["files"].values()}
    assert listed == {path.name for path in (three / "maps").glob("*.nii.gz")}
    assert "true_gap" in index["written"]["c1"]["files"]
    assert "true_gap" not in index["written"]["c0"]["files"]
    in_mm = run(three, window_mm=8, maps=["gap"])
    assert (in_mm["window_mm"], in_mm["window_voxels"]) == (8, None)
    assert in_mm["written"]["c0"]["window_voxels"] == [5, 5, 1]
    run(three, classes=["LV"], window_voxels=(5, 3, 1))


def test_a_run_again_replaces_and_leaves_no_stale_map(tmp_path: Path) -> None:
    for k in range(2):
        write_case(tmp_path, f"c{k}", *smooth(k))
    run(tmp_path, classes=["LV"], cohort=True)
    own = tmp_path / "maps" / "c0_mine.nii.gz"
    write_volume(own, np.zeros((2, 2, 2)), np.eye(4))
    prediction = tmp_path / "pred" / "c1.nii.gz"
    prediction.write_bytes(prediction.read_bytes()[:-100])
    index = run(tmp_path, maps=["gap", "error"], window_voxels=1)
    assert [(entry["case"], entry["reason"]) for entry in index["refused"]] == [("c1", "damaged_gzip")]
    assert {path.name for path in (tmp_path / "maps").iterdir()} == {
        INDEX, "c0_gap.nii.gz", "c0_error.nii.gz", own.name
    }  # fmt: skip
    assert str(tmp_path) not in (tmp_path / "maps" / INDEX).read_text()


def test_maps_of_a_run_that_was_killed_are_removed(tmp_path: Path) -> None:
    """Its index was not written, so the headers tell whose they are."""
    write_case(tmp_path, "c0", *smooth(0))
    run(tmp_path, classes=["LV", "RV"])
    (tmp_path / "maps" / INDEX).unlink()
    kept = {"c0_mine_gap.nii.gz": gzip.compress(b"not a volume"), "c0_my_error.nii.gz": b"not even gzip"}
    kept["c0_gap_copy.nii.gz"] = (tmp_path / "maps" / "c0_gap.nii.gz").read_bytes()
    for name, content in kept.items():
        (tmp_path / "maps" / name).write_bytes(content)
    run(tmp_path, maps=["gap"])
    assert {path.name for path in (tmp_path / "maps").iterdir()} == {INDEX, "c0_gap.nii.gz", *kept}


@pytest.mark.parametrize(
    "index", ["[]", '{"written": {"x": 3}}', '{"cases": ["../../labels/c0"]}', "{", '{"cases": 3}']
)
def test_an_index_of_another_kind_removes_nothing(tmp_path: Path, index: str) -> None:
    write_case(tmp_path, "c0", *smooth(0))
    (tmp_path / "maps").mkdir()
    (tmp_path / "maps" / INDEX).write_text(index)
    before = sorted((tmp_path / "labels").iterdir())
    assert run(tmp_path, maps=["gap"])["cases"] == ["c0"]
    assert sorted((tmp_path / "labels").iterdir()) == before


@pytest.mark.fault(16)
def test_an_index_cannot_reach_out_of_its_folder(tmp_path: Path) -> None:
    write_case(tmp_path, "c0", *smooth(0))
    outside = tmp_path / "mine.nii.gz"
    outside.write_bytes(b"kept")
    (tmp_path / "maps").mkdir()
    write_json(tmp_path / "maps" / INDEX, {"written": {"c0": {"files": {"gap": "../mine.nii.gz"}}}})
    run(tmp_path, maps=["gap"])
    assert outside.read_bytes() == b"kept"


def test_two_cases_never_share_a_file(tmp_path: Path) -> None:
    """Case `a` with a class LV, and case `a_LV`: both would write `a_LV_gap.nii.gz`."""
    for case in ("a", "a_LV"):
        write_case(tmp_path, case, *smooth(0))
    index = run(tmp_path, classes=["LV"])
    assert index["cases"] == ["a"]
    (refusal,) = index["refused"]
    assert (refusal["case"], refusal["reason"]) == ("a_LV", "map_name_taken")
    assert "a_LV_gap.nii.gz would be that of a" in refusal["message"]
    assert run(tmp_path)["cases"] == ["a", "a_LV"]


def test_names_of_classes_become_names_of_files(tmp_path: Path) -> None:
    names = ("background", "right kidney", "aorta/arch", "LV")
    write_case(tmp_path, "c0", *smooth(0), names=names)
    index = run(tmp_path, classes=["all"], maps=["label"])
    assert index["classes"] == {"LV": "LV", "aorta/arch": "aorta_arch", "right kidney": "right_kidney"}
    assert (tmp_path / "maps" / "c0_aorta_arch_probability.nii.gz").is_file()
    assert index["class_maps"].keys() == {"probability", "gap", "error", "true_gap"}


@pytest.mark.parametrize(
    ("names", "words"),
    [
        (("background", "a b", "a_b", "LV"), "'a_b' and class 'a b' would share a file"),
        (("background", "true", "MYO", "LV"), "'true' and the map 'true_gap' would share a file"),
        (("background", "???", "MYO", "LV"), "cannot be part of a file name"),
    ],
)
def test_names_that_would_share_a_file_are_refused(tmp_path: Path, names: tuple[str, ...], words: str) -> None:
    write_case(tmp_path, "c0", *smooth(0), names=names)
    with pytest.raises(ConfigError, match=words):
        run(tmp_path, classes=["all"])
    assert not (tmp_path / "maps").exists()


def test_options_that_make_no_sense_end_before_anything_is_written(tmp_path: Path) -> None:
    write_case(tmp_path, "c0", *smooth(0))
    for options, words in (
        ({"maps": ["gaps"]}, "unknown map 'gaps'; did you mean 'gap'"),
        ({"maps": []}, "expected the names of maps"),
        ({"classes": ["MYOO"]}, "unknown class 'MYOO'; did you mean 'MYO'"),
        ({"window_mm": 9, "window_voxels": 3}, "not both"),
    ):
        with pytest.raises(ConfigError, match=words):
            run(tmp_path, **options)
    assert not (tmp_path / "maps").exists()


def test_unions_of_the_config_are_classes_too(tmp_path: Path) -> None:
    probs, label = smooth(0)
    write_case(tmp_path, "c0", probs, label)
    write_volume(tmp_path / "images" / "c0.nii.gz", probs[0], LPS)
    write_maps(tmp_path / "pred", tmp_path, tmp_path / "maps", data=DATA, classes=["heart"], maps=["label"])
    found = read_map(tmp_path / "maps", "c0", "heart_probability")
    np.testing.assert_allclose(found, probs[1:].sum(0), atol=1e-6)


def test_independent_regions_are_mapped_one_by_one(tmp_path: Path) -> None:
    probs, label = smooth(1)
    channels = np.stack([probs[1:].sum(0), probs[3]])
    groups = {"whole tumor": [1, 2, 3], "enhancing": [3]}
    write_case(tmp_path, "c0", channels, label, activation="sigmoid", groups=groups)
    index = run(tmp_path)
    assert (index["cases"], index["refused"]) == (["c0"], [])
    assert index["classes"] == {"enhancing": "enhancing", "whole tumor": "whole_tumor"}
    error = read_map(tmp_path / "maps", "c0", "whole_tumor_error")
    np.testing.assert_array_equal(error, (channels[0] > 0.5) != (label > 0))
    assert float(nib.load(tmp_path / "maps" / "c0_label.nii.gz").header["cal_max"]) == 3
    assert run(tmp_path, classes=["enhancing"])["classes"] == {"enhancing": "enhancing"}
    with pytest.raises(ConfigError, match=r"independent regions \(whole tumor, enhancing\)"):
        run(tmp_path, cohort=True)


def test_a_case_whose_channels_are_others_is_refused_by_name(tmp_path: Path) -> None:
    """With a config some predictions may be of exclusive classes and others of independent regions."""
    probs, label = smooth(0)
    for case in ("c0", "c1"):
        write_volume(tmp_path / "images" / f"{case}.nii.gz", probs[0], LPS)
    write_case(tmp_path, "c0", probs, label)
    write_case(tmp_path, "c1", probs[1:], label, activation="sigmoid", groups={"A": [1], "B": [2], "C": [3]})
    index = write_maps(tmp_path / "pred", tmp_path, tmp_path / "maps", data=DATA, classes=["LV"], cohort=True)
    assert (index["cases"], index["cohort"]["cases"]) == (["c0"], ["c0"])
    assert [(entry["case"], entry["reason"]) for entry in index["refused"]] == [("c1", "unknown_class")]
    index = write_maps(tmp_path / "pred", tmp_path, tmp_path / "maps", data=DATA, cohort=True)
    assert (index["cases"], index["cohort"]["left_out"]) == (["c0", "c1"], ["c1"])


def test_a_folder_without_predictions_is_refused(tmp_path: Path) -> None:
    probs, label = smooth(0)
    write_case(tmp_path, "c0", probs, label)
    write_volume(tmp_path / "images" / "c0.nii.gz", probs[0], LPS)
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataRefusedError, match="no_prediction"):
        write_maps(tmp_path / "empty", tmp_path, tmp_path / "maps", data=DATA)
