"""The phantom on disk: the exact files of every layout, repeatable to the byte."""

from __future__ import annotations

import gzip
import hashlib
import json
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from medcalib.data.phantom import LAYOUTS, make_case, write_dataset

SMALL = {"heart": (32, 32, 6), "tumor": (32, 36, 28), "abdomen": (40, 36, 14), "hippocampus": (24, 30, 22)}
LAYOUT_ANATOMY = {
    "acdc": "heart",
    "brats": "tumor",
    "flare": "abdomen",
    "msd": "hippocampus",
    "nnunet": "tumor",
}
CODES = {
    "acdc": {0, 1, 2, 3},
    "brats": {0, 1, 2, 4},
    "flare": set(range(14)),
    "msd": {0, 1, 2},
    "nnunet": {0, 1, 2, 3},
}


def write_small(layout: str, cases: int, out: Path, seed: int = 3) -> Path:
    return write_dataset(layout, cases, seed, out, shape=SMALL[LAYOUT_ANATOMY[layout]])


def digests(root: Path) -> dict[str, str]:
    files = (path for path in sorted(root.rglob("*")) if path.is_file())
    return {path.relative_to(root).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_bytes_repeat_and_do_not_depend_on_the_number_of_cases(layout, tmp_path):
    again, one, more = (tmp_path / name for name in ("again", "one", "more"))
    files = [digests(write_small(layout, n, out)) for n, out in ((1, again), (1, one), (2, more))]
    assert files[0] == files[1]
    volumes = [{Path(name).name: d for name, d in f.items() if name.endswith(".nii.gz")} for f in files[1:]]
    for name, digest in volumes[0].items():
        assert volumes[1][name] == digest


def test_another_seed_gives_other_files(tmp_path):
    one, two = (digests(write_small("msd", 1, tmp_path / str(seed), seed)) for seed in (0, 1))
    assert one.keys() == two.keys()
    assert all(one[name] != two[name] for name in one if name.endswith(".nii.gz"))


EXPECTED = {
    "brats": lambda: (
        {"name_mapping.csv", "survival_info.csv"}
        | {
            f"{c}/{c}_{m}.nii.gz"
            for c in ("BraTS20_Training_001", "BraTS20_Training_002")
            for m in ("t1", "t1ce", "t2", "flair", "seg", "posterior")
        }
    ),
    "flare": lambda: {
        f"{folder}/FLARE22_Tr_000{i}{end}.nii.gz"
        for i in (1, 2)
        for folder, end in (("images", "_0000"), ("labels", ""), ("labels", "_posterior"))
    },
    "msd": lambda: (
        {"dataset.json", "imagesTs/hippocampus_test_001.nii.gz"}
        | {
            f"{folder}/hippocampus_00{i}{end}.nii.gz"
            for i in (1, 2)
            for folder, end in (("imagesTr", ""), ("labelsTr", ""), ("labelsTr", "_posterior"))
        }
    ),
    "nnunet": lambda: (
        {"dataset.json"}
        | {f"imagesTr/tumor_00{i}_000{c}.nii.gz" for i in (1, 2) for c in range(4)}
        | {f"labelsTr/tumor_00{i}{end}.nii.gz" for i in (1, 2) for end in ("", "_posterior")}
    ),
}


@pytest.mark.parametrize("layout", EXPECTED)
def test_layout_writes_exactly_its_files(layout, tmp_path):
    assert set(digests(write_small(layout, 2, tmp_path / "data"))) == EXPECTED[layout]()


def info_of(folder: Path) -> dict[str, str]:
    return dict(line.split(": ") for line in (folder / "Info.cfg").read_text().splitlines())


def test_acdc_files_and_frames(tmp_path):
    root = write_small("acdc", 5, tmp_path)
    training, testing = ([p.name for p in sorted((root / part).iterdir())] for part in ("training", "testing"))
    assert training == [f"patient00{i}" for i in (1, 2, 3, 4)]
    assert testing == ["patient005"]
    starts = []
    for folder in [*(root / "training").iterdir(), *(root / "testing").iterdir()]:
        info = info_of(folder)
        assert set(info) == {"ED", "ES", "Group", "Height", "NbFrame", "Weight"}
        assert int(info["ED"]) < int(info["ES"]) <= int(info["NbFrame"])
        starts.append(int(info["ED"]))
        frames = [f"{folder.name}_frame{int(info[phase]):02d}" for phase in ("ED", "ES")]
        names = {f"{frame}{end}.nii.gz" for frame in frames for end in ("", "_gt", "_posterior")}
        assert {p.name for p in folder.iterdir()} == names | {"Info.cfg"}
    assert sorted(starts) == [1, 1, 1, 1, 4]


def test_one_acdc_patient_is_for_training(tmp_path):
    root = write_small("acdc", 1, tmp_path)
    assert [p.name for p in root.iterdir()] == ["training"]


def labels_of(layout: str, root: Path) -> list[tuple[Path, Path, Path]]:
    """(label, image, posterior) of every case."""
    found = []
    for posterior in sorted(root.rglob("*_posterior.nii.gz")):
        stem = posterior.name.removesuffix("_posterior.nii.gz")
        label_end = {"acdc": "_gt", "brats": "_seg"}.get(layout, "")
        image_end = {"brats": "_t1ce", "flare": "_0000", "nnunet": "_0002"}.get(layout, "")
        folder = {"flare": root / "images", "msd": root / "imagesTr", "nnunet": root / "imagesTr"}.get(layout)
        image = (folder or posterior.parent) / f"{stem}{image_end}.nii.gz"
        found.append((posterior.with_name(f"{stem}{label_end}.nii.gz"), image, posterior))
    return found


@pytest.mark.parametrize("layout", LAYOUTS)
def test_volumes_agree_in_grid_type_and_codes(layout, tmp_path):
    root = write_small(layout, 2, tmp_path)
    seen: set[int] = set()
    for label, image, posterior in [[nib.load(p) for p in paths] for paths in labels_of(layout, root)]:
        assert label.get_data_dtype() == np.uint8
        assert image.get_data_dtype() == (np.float32 if layout == "msd" else np.int16)
        assert label.shape == image.shape == posterior.shape[:3]
        assert posterior.shape[3] == len(CODES[layout])
        assert posterior.get_data_dtype() == np.float32
        np.testing.assert_array_equal(label.affine, image.affine)
        np.testing.assert_allclose(label.header.get_zooms(), np.abs(np.diag(label.affine))[:3], rtol=1e-6)
        assert np.sign(label.affine[0, 0]) == (-1 if layout in ("acdc", "brats", "nnunet") else 1)
        seen |= set(np.unique(np.asarray(label.dataobj)).tolist())
    missing = {7, 8} if layout == "flare" else set()  # a small grid may miss the adrenal glands
    assert CODES[layout] - missing <= seen <= CODES[layout]


def test_brats_is_skull_stripped_and_codes_follow_the_classes(tmp_path):
    root = write_small("brats", 1, tmp_path)
    case = make_case("tumor", 3, 0, SMALL["tumor"])
    folder = root / "BraTS20_Training_001"
    written = np.asarray(nib.load(folder / "BraTS20_Training_001_seg.nii.gz").dataobj)
    np.testing.assert_array_equal(written, np.array([0, 1, 2, 4])[case.labels])
    for channel, name in enumerate(("t1", "t1ce", "t2", "flair")):
        image = np.asarray(nib.load(folder / f"BraTS20_Training_001_{name}.nii.gz").dataobj)
        np.testing.assert_array_equal(image, case.images[channel])
        assert (image == 0).mean() > 0.3
        assert (image[[0, -1]] == 0).all()


def test_dataset_json_of_msd_and_nnunet(tmp_path):
    msd = write_dataset("msd", 2, 0, tmp_path, anatomy="tumor", shape=SMALL["tumor"])
    description = json.loads((msd / "dataset.json").read_text())
    assert msd.name == "Task90_Phantom"
    assert description["modality"] == {"0": "t1", "1": "t1ce", "2": "t2", "3": "flair"}
    assert description["labels"] == {"0": "background", "1": "NCR", "2": "ED", "3": "ET"}
    for entry in description["training"]:
        assert entry["image"].startswith("./imagesTr/")
        assert nib.load(msd / entry["image"]).shape == (*SMALL["tumor"], 4)
        assert (msd / entry["label"]).is_file()
    nnunet = write_dataset("nnunet", 1, 0, tmp_path, anatomy="abdomen", shape=SMALL["abdomen"])
    description = json.loads((nnunet / "dataset.json").read_text())
    assert description["channel_names"] == {"0": "CT"}
    assert description["labels"]["left kidney"] == 13
    assert description["numTraining"] == 1


def test_gzip_headers_hold_no_clock(tmp_path):
    root = write_small("msd", 1, tmp_path)
    data = (root / "labelsTr" / "hippocampus_001.nii.gz").read_bytes()
    assert data[4:8] == b"\0\0\0\0"
    assert gzip.decompress(data)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("dicom", 1, 0), "unknown layout 'dicom'"),
        (("acdc", 0, 0), "cases must be at least 1"),
        (("acdc", 1, -1), "seed at least 0"),
        (("acdc", 1, 0, "tumor"), "goes with anatomy heart"),
        (("msd", 1, 0, "knee"), "unknown anatomy 'knee'"),
        (("msd", 1, 0, None, (8, 8, 8)), "shape must have three entries"),
    ],
)
def test_bad_arguments_are_refused(arguments, message, tmp_path):
    layout, cases, seed, *rest = arguments
    with pytest.raises(ValueError, match=message):
        write_dataset(layout, cases, seed, tmp_path / "data", *rest)


def test_a_filled_folder_is_refused(tmp_path):
    write_small("msd", 1, tmp_path)
    with pytest.raises(FileExistsError, match="not an empty folder"):
        write_small("msd", 1, tmp_path)
