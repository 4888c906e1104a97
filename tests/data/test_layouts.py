"""Every layout finds the cases of the real folder structure, and names what does not fit it."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import SimpleITK as sitk  # noqa: N813

from medcalib.data.case import Case
from medcalib.data.check import find_cases
from medcalib.data.labels import LabelMap
from medcalib.data.layouts import LAYOUTS, acdc, brats, files, flare, msd, nnunet
from medcalib.data.load import load_case
from medcalib.data.phantom import write_dataset
from medcalib.errors import Problem

SHAPES = {
    "acdc": (32, 32, 6),
    "brats": (32, 36, 28),
    "flare": (40, 36, 14),
    "msd": (24, 30, 22),
    "nnunet": (24, 30, 22),
}
CLASSES = {
    "acdc": LabelMap.consecutive(["background", "RV", "MYO", "LV"]),
    "brats": LabelMap(("background", "NCR", "ED", "ET"), ((0,), (1,), (2,), (4,))),
    "flare": LabelMap.consecutive([str(k) for k in range(14)]),
    "msd": LabelMap.consecutive(["background", "Anterior", "Posterior"]),
    "nnunet": LabelMap.consecutive(["background", "Anterior", "Posterior"]),
}
Touch = Callable[..., None]


@pytest.fixture(scope="session")
def originals(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    base = tmp_path_factory.mktemp("phantoms")
    return {
        name: write_dataset(name, 3, 0, base / name, "hippocampus" if name == "nnunet" else None, shape)
        for name, shape in SHAPES.items()
    }


@pytest.fixture
def phantom(originals: dict[str, Path], tmp_path: Path) -> Callable[[str], Path]:
    """A copy of a phantom dataset that a test may spoil."""
    return lambda name: Path(shutil.copytree(originals[name], tmp_path / originals[name].name))


@pytest.fixture
def touch(tmp_path: Path) -> Touch:
    """Make files whose content no layout looks at."""

    def make(*names: str) -> None:
        for name in names:
            (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / name).write_bytes(b"x")

    return make


def scan(layout: Callable[..., list[Case]], root: Path, **options: Any) -> tuple[list[Case], list[Problem]]:
    problems: list[Problem] = []
    return layout(root, problems, **options), problems


def said(problems: list[Problem]) -> list[tuple[str, str]]:
    return [(problem.where, problem.reason) for problem in problems]


@pytest.mark.parametrize("name", SHAPES)
def test_a_phantom_is_found_whole_and_loads(originals: dict[str, Path], name: str) -> None:
    cases, problems = find_cases(LAYOUTS[name], originals[name], {})
    assert problems == []
    assert len({case.patient_id for case in cases}) == 3
    assert all(case.label is not None and case.posterior is not None for case in cases)
    loaded = load_case(cases[0], CLASSES[name], with_posterior=True)
    assert loaded.image.shape[0] == len(cases[0].images) == (4 if name == "brats" else 1)
    assert loaded.label is not None
    assert loaded.label.any()
    assert loaded.posterior is not None
    agreement = np.take_along_axis(loaded.posterior, loaded.label[None].astype(int), 0).mean()
    assert agreement > 0.7  # label and posterior belong together


@pytest.mark.parametrize("name", SHAPES)
def test_clutter_of_macos_and_text_files_is_ignored(phantom: Callable[[str], Path], name: str) -> None:
    root = phantom(name)
    expected, _ = scan(LAYOUTS[name], root)
    for folder in [path for path in root.rglob("*") if path.is_dir()]:
        for clutter in (".DS_Store", "._case.nii.gz", "._case_0000.nii.gz", "README.md"):
            (folder / clutter).write_bytes(b"\0\5\x16\7")
    assert scan(LAYOUTS[name], root) == (expected, [])


@pytest.mark.fault(18)
@pytest.mark.parametrize("name", SHAPES)
def test_a_circle_of_links_ends(phantom: Callable[[str], Path], name: str) -> None:
    root = phantom(name)
    expected, _ = scan(LAYOUTS[name], root)
    (root / "circle").symlink_to(root, target_is_directory=True)
    (root / "itself").symlink_to(root / "itself")
    found, _ = scan(LAYOUTS[name], root)
    assert found == expected


@pytest.mark.parametrize("name", sorted(LAYOUTS))
def test_an_empty_folder_is_a_problem_and_no_crash(tmp_path: Path, name: str) -> None:
    cases, problems = find_cases(LAYOUTS[name], tmp_path, {})
    assert cases == []
    assert {problem.level for problem in problems} == {"error"}


# ACDC


def test_acdc_takes_frames_from_info_and_the_test_set_from_the_folder(originals: dict[str, Path]) -> None:
    cases, _ = scan(acdc, originals["acdc"])
    assert [c.patient_id for c in cases] == [f"patient00{k}" for k in (1, 1, 2, 2, 3, 3)]
    assert [c.split for c in cases] == [None] * 4 + ["test"] * 2
    assert cases[2].id == "patient002_frame04"
    only, _ = scan(acdc, originals["acdc"], phases=["ES"])
    assert [c.id for c in only] == [c.id for c in cases[1::2]]


def test_acdc_is_found_from_any_of_its_usual_roots(phantom: Callable[[str], Path], tmp_path: Path) -> None:
    root = phantom("acdc")
    expected = [c.id for c in scan(acdc, root)[0]]
    assert [c.id for c in scan(acdc, root / "training")[0]] == expected[:4]
    shutil.move(root, tmp_path / "ACDC" / "database")
    assert [c.id for c in scan(acdc, tmp_path / "ACDC")[0]] == expected


@pytest.mark.fault(36)
def test_acdc_says_which_file_is_missing(phantom: Callable[[str], Path]) -> None:
    root = phantom("acdc")
    (root / "training/patient001/Info.cfg").unlink()
    (root / "training/patient002/Info.cfg").write_text("ED: one\nNbFrame: 30\n")
    for file in (root / "testing/patient003").glob("*_frame01.nii.gz"):
        file.unlink()
    cases, problems = scan(acdc, root)
    assert [c.patient_id for c in cases] == ["patient003"]
    assert said(problems) == [
        ("patient001", "missing_info"),
        ("patient002", "bad_info"),
        ("patient002", "bad_info"),
        ("patient003", "missing_image"),
    ]
    assert "got 'one'" in problems[1].message
    assert "ED is patient003_frame01" in problems[3].message


def test_real_acdc(real: Path) -> None:
    cases, problems = scan(acdc, real / "acdc")
    assert problems == []
    assert len(cases) == 24
    assert {c.patient_id for c in cases if c.split == "test"} == {"patient101", "patient124"}
    assert [c.id for c in cases if c.patient_id == "patient090"] == ["patient090_frame04", "patient090_frame11"]
    assert all(c.label is not None and c.label.name == f"{c.id}_gt.nii.gz" for c in cases)


# BraTS


def test_brats_keeps_the_order_of_modalities_and_t1_is_not_t1ce(originals: dict[str, Path]) -> None:
    cases, _ = scan(brats, originals["brats"], modalities=["t1ce", "t1"])
    name = "BraTS20_Training_001"
    assert [p.name for p in cases[0].images] == [f"{name}_t1ce.nii.gz", f"{name}_t1.nii.gz"]
    assert cases[0].label is not None
    assert cases[0].label.name == f"{name}_seg.nii.gz"


@pytest.mark.fault(36)
def test_brats_names_case_and_modality_that_are_missing(phantom: Callable[[str], Path]) -> None:
    root = phantom("brats")
    name = "BraTS20_Training_002"
    (root / name / f"{name}_t1.nii.gz").unlink()
    cases, problems = scan(brats, root)
    assert len(cases) == 2
    assert said(problems) == [(name, "missing_modality")]
    assert "no file for t1 (found: " in problems[0].message
    assert f"{name}_t1ce.nii.gz" in problems[0].message


@pytest.mark.fault(36)
def test_brats_reports_a_misnamed_label_with_the_fix_and_takes_it(phantom: Callable[[str], Path]) -> None:
    """BraTS20_Training_355 of the real challenge has its label under this name."""
    root, name = phantom("brats"), "BraTS20_Training_003"
    shutil.move(root / name / f"{name}_seg.nii.gz", root / name / "W39_1998.09.19_Segm.nii.gz")
    cases, problems = scan(brats, root)
    assert said(problems) == [(name, "misnamed_label")]
    assert f"label_files: {{{name}: W39_1998.09.19_Segm.nii.gz}}" in problems[0].message
    cases, problems = scan(brats, root, label_files={name: "W39_1998.09.19_Segm.nii.gz"})
    assert problems == []
    assert load_case(cases[2], CLASSES["brats"]).label is not None


@pytest.mark.fault(36)
def test_brats_reports_a_label_file_that_is_absent(phantom: Callable[[str], Path]) -> None:
    name = "BraTS20_Training_003"
    _, problems = scan(brats, phantom("brats"), label_files={name: "absent.nii"})
    assert said(problems) == [(name, "missing_label")]


def test_brats_without_a_label_is_for_inference(tmp_path: Path, touch: Touch) -> None:
    touch(*(f"BraTS20_Validation_001/BraTS20_Validation_001_{m}.nii" for m in ("t1", "t1ce", "t2", "flair")))
    cases, problems = scan(brats, tmp_path)
    assert problems == []
    assert cases[0].label is None


def test_brats_from_2023_has_hyphens_and_several_exams_of_a_patient(tmp_path: Path, touch: Touch) -> None:
    names = ["BraTS-GLI-00000-000", "BraTS-GLI-00000-001", "BraTS-GLI-00002-000"]
    touch(*(f"data/{n}/{n}-{m}.nii.gz" for n in names for m in ("t1n", "t1c", "t2w", "t2f", "seg")))
    cases, problems = scan(brats, tmp_path, separator="-", modalities=["t1n", "t1c", "t2w", "t2f"])
    assert problems == []
    assert [c.id for c in cases] == names
    assert [c.patient_id for c in cases] == ["BraTS-GLI-00000", "BraTS-GLI-00000", "BraTS-GLI-00002"]


def test_brats_looks_into_hgg_and_lgg_and_linked_case_folders(tmp_path: Path, touch: Touch) -> None:
    names = {"HGG": "Brats18_CBICA_AAB_1", "LGG": "Brats18_TCIA09_620_1"}
    touch(*(f"{g}/{n}/{n}_{m}.nii.gz" for g, n in names.items() for m in ("t1", "t1ce", "t2", "flair", "seg")))
    touch("survival_data.csv")
    assert [c.id for c in scan(brats, tmp_path)[0]] == list(names.values())
    (tmp_path / "linked").mkdir()
    (tmp_path / "linked" / names["HGG"]).symlink_to(tmp_path / "HGG" / names["HGG"])
    assert [c.id for c in scan(brats, tmp_path / "linked")[0]] == [names["HGG"]]


def test_real_brats(real: Path) -> None:
    cases, problems = scan(brats, real / "brats2013", modalities=["flair", "t1ce"])
    assert problems == []
    assert [c.id[-3:] for c in cases] == ["901", "903", "904", "905"]
    _, problems = scan(brats, real / "brats2013")
    assert [p.reason for p in problems] == ["missing_modality"] * 4
    assert "no file for t1, t2 " in problems[0].message
    cases, problems = scan(brats, real / "brats_tcga_auto/BraTS2021_Training_Data")
    assert [len(c.images) for c in cases] == [4]
    label = load_case(cases[0], CLASSES["brats"]).label
    assert label is not None
    assert 3 not in label  # a case without enhancing tumor is a case


# FLARE


@pytest.mark.fault(36)
def test_flare_pairs_by_stem_and_names_the_unpaired(phantom: Callable[[str], Path]) -> None:
    root = phantom("flare")
    (root / "images/FLARE22_Tr_0001_0000.nii.gz").unlink()
    (root / "labels/FLARE22_Tr_0003.nii.gz").unlink()
    _, problems = scan(flare, root)
    assert said(problems) == [("FLARE22_Tr_0001", "unpaired"), ("FLARE22_Tr_0003", "unpaired")]
    assert problems[0].message.startswith("label without an image")
    assert problems[1].message.startswith("image without a label")
    kept, warnings = find_cases(flare, root, {}, skip_unpaired=True)
    assert [c.id for c in kept] == ["FLARE22_Tr_0002"]
    assert {p.level for p in warnings} == {"warning"}


def test_flare_has_other_folders_and_partial_labels_in_other_years(tmp_path: Path, touch: Touch) -> None:
    touch("imagesTr2200/FLARE23_0001_0000.nii.gz", "labelsTr2200/FLARE23_0001.nii.gz")
    touch("imagesTr2200/FLARE23_0002_0000.nii.gz", "labelsTr2200/FLARE23_0002.nii.gz")
    options = {"images": "imagesTr2200", "labels": "labelsTr2200", "labelled_classes": {"FLARE23_0002": ["liver"]}}
    cases, problems = scan(flare, tmp_path, **options)
    assert problems == []
    assert [c.labelled_classes for c in cases] == [None, ("liver",)]
    _, problems = scan(flare, tmp_path)
    assert [p.reason for p in problems] == ["missing_folder", "missing_folder"]


@pytest.mark.fault(36)
def test_flare_refuses_two_files_of_one_name(phantom: Callable[[str], Path]) -> None:
    root = phantom("flare")
    (root / "labels/FLARE22_Tr_0002.nii").write_bytes(b"x")
    _, problems = scan(flare, root)
    assert said(problems) == [("FLARE22_Tr_0002", "ambiguous_file")]


def test_real_flare(real: Path) -> None:
    cases, problems = scan(flare, real / "abdomen_ct_auto")
    assert problems == []
    assert [c.id for c in cases] == ["FLARE22_Tr_9001"]


# MSD


def described(root: Path, **changes: Any) -> None:
    description = json.loads((root / "dataset.json").read_text()) | changes
    (root / "dataset.json").write_text(json.dumps(description))


def test_msd_takes_the_task_folder_or_its_parent(originals: dict[str, Path]) -> None:
    root = originals["msd"]
    assert scan(msd, root) == scan(msd, root.parent)
    assert [c.id for c in scan(msd, root)[0]] == ["hippocampus_001", "hippocampus_002", "hippocampus_003"]


@pytest.mark.fault(36)
def test_msd_reports_files_that_are_not_listed(phantom: Callable[[str], Path]) -> None:
    root = phantom("msd")
    entries = json.loads((root / "dataset.json").read_text())["training"]
    described(root, training=entries[1:])
    shutil.copy(root / "imagesTr/hippocampus_002.nii.gz", root / "imagesTr/extra.nii.gz")
    _, problems = scan(msd, root)
    assert said(problems) == [("extra", "unpaired"), ("hippocampus_001", "unlisted")]
    assert [p.level for p in problems] == ["error", "warning"]


@pytest.mark.fault(36)
def test_msd_reports_listed_files_that_are_absent(phantom: Callable[[str], Path]) -> None:
    root = phantom("msd")
    (root / "imagesTr/hippocampus_001.nii.gz").unlink()
    (root / "labelsTr/hippocampus_002.nii.gz").unlink()
    cases, problems = scan(msd, root)
    assert [c.id for c in cases] == ["hippocampus_003"]
    assert said(problems) == [("hippocampus_001", "unpaired"), ("hippocampus_002", "unpaired")]


@pytest.mark.fault(16)
@pytest.mark.parametrize(
    "path", ["../../evil.nii.gz", "/etc/evil.nii.gz", "imagesTr/../../evil.nii.gz", "imagesTr/x.txt", 5, None]
)
def test_msd_refuses_paths_that_leave_the_folder_or_name_no_volume(
    phantom: Callable[[str], Path], path: object
) -> None:
    root = phantom("msd")
    (root.parent / "evil.nii.gz").write_bytes(b"x")
    entries = json.loads((root / "dataset.json").read_text())["training"]
    described(root, training=[*entries, {"image": path, "label": entries[0]["label"]}])
    cases, problems = scan(msd, root)
    assert len(cases) == 3
    assert said(problems) == [("dataset.json", "bad_dataset_json")]


@pytest.mark.fault(16)
def test_msd_refuses_a_label_outside_the_folder(phantom: Callable[[str], Path]) -> None:
    root = phantom("msd")
    entries = json.loads((root / "dataset.json").read_text())["training"]
    (root.parent / "evil.nii.gz").write_bytes(b"x")
    described(root, training=[{"image": entries[0]["image"], "label": "../evil.nii.gz"}, *entries[1:]])
    cases, problems = scan(msd, root)
    assert len(cases) == 2
    assert said(problems)[0] == ("hippocampus_001", "unpaired")


@pytest.mark.parametrize("layout", [msd, nnunet])
@pytest.mark.parametrize("content", ["", "{", "[]", "3", "{}", '{"training": null, "modality": 3}', '{"training": 7}'])
def test_a_broken_dataset_json_is_one_problem(tmp_path: Path, layout: Callable[..., list[Case]], content: str) -> None:
    (tmp_path / "dataset.json").write_text(content)
    cases, problems = scan(layout, tmp_path)
    assert cases == []
    assert [p.where for p in problems] == ["dataset.json"]


def test_a_missing_or_doubtful_dataset_json_is_one_problem(tmp_path: Path, touch: Touch) -> None:
    _, problems = scan(msd, tmp_path)
    assert said(problems) == [(str(tmp_path), "no_dataset_json")]
    touch("Task01_A/dataset.json", "Task02_B/dataset.json")
    _, problems = scan(msd, tmp_path)
    assert "Task01_A, Task02_B" in problems[0].message


def test_real_msd(real: Path) -> None:
    cases, problems = scan(msd, real / "msd_hippocampus")
    assert [p for p in problems if p.level == "error"] == []
    assert len(cases) == 208
    assert load_case(cases[0], CLASSES["msd"]).spacing_mm == pytest.approx((1, 1, 1))


# nnU-Net


def test_nnunet_reads_version_1_too(phantom: Callable[[str], Path]) -> None:
    root = phantom("nnunet")
    expected = scan(nnunet, root)
    (root / "dataset.json").write_text(json.dumps({"modality": {"0": "MRI"}, "labels": {"0": "background"}}))
    assert scan(nnunet, root) == expected


@pytest.mark.fault(36)
def test_nnunet_reports_channels_names_and_numbers_that_do_not_fit(phantom: Callable[[str], Path]) -> None:
    root = phantom("nnunet")
    shutil.move(root / "imagesTr/hippocampus_001_0000.nii.gz", root / "imagesTr/hippocampus_001_0001.nii.gz")
    shutil.move(root / "imagesTr/hippocampus_002_0000.nii.gz", root / "imagesTr/hippocampus_002.nii.gz")
    cases, problems = scan(nnunet, root)
    assert [c.id for c in cases] == ["hippocampus_003"]
    assert said(problems) == [
        ("hippocampus_002.nii.gz", "bad_name"),
        ("hippocampus_002", "unpaired"),
        ("hippocampus_001", "missing_modality"),
        ("dataset.json", "count_differs"),
    ]
    assert "expected channels 0..0, found [1]" in problems[2].message
    assert problems[3].level == "warning"


@pytest.mark.fault(16, 36)
def test_nnunet_honors_a_dataset_block(phantom: Callable[[str], Path]) -> None:
    root = phantom("nnunet")
    entry = {"images": ["imagesTr/hippocampus_001_0000.nii.gz"], "label": "labelsTr/hippocampus_001.nii.gz"}
    bad = {
        "away": entry | {"label": "../x.nii.gz"},
        "absolute": entry | {"images": ["/etc/passwd"]},
        "gone": entry | {"images": ["imagesTr/gone_0000.nii.gz"]},
        "none": entry | {"images": []},
        "half": {"images": entry["images"]},
        "text": "x",
        "null": entry | {"images": None},
    }
    described(root, dataset={"mine": entry} | bad)
    cases, problems = scan(nnunet, root)
    assert [(c.id, c.images[0].name) for c in cases] == [("mine", "hippocampus_001_0000.nii.gz")]
    assert sorted(p.where for p in problems) == sorted(bad)


@pytest.mark.fault(16)
def test_nnunet_ids_of_a_dataset_block_cannot_leave_the_output_folder(phantom: Callable[[str], Path]) -> None:
    root = phantom("nnunet")
    entry = {"images": ["imagesTr/hippocampus_001_0000.nii.gz"], "label": "labelsTr/hippocampus_001.nii.gz"}
    described(root, dataset={"../../evil": entry})
    _, problems = find_cases(nnunet, root, {})
    assert [p.reason for p in problems] == ["unsafe_case_id"]


# files


def test_files_takes_one_pattern_a_channel_and_a_patient_of_the_id(tmp_path: Path, touch: Touch) -> None:
    names = ["sub-1_ses-1", "sub-1_ses-2", "sub-2_ses-1"]
    touch(*(f"raw/{n}_{m}.nii.gz" for n in names for m in ("T1w", "T2w")), *(f"seg/{n}.nii" for n in names))
    options = {"images": ["raw/{case}_T1w.nii.gz", "raw/{case}_T2w.nii.gz"], "label": "seg/{case}.nii"}
    cases, problems = scan(files, tmp_path, patient=r"(sub-[0-9]+)_.*", **options)
    assert problems == []
    assert [(c.id, c.patient_id) for c in cases] == [(n, n[:5]) for n in names]
    assert [p.name for p in cases[0].images] == ["sub-1_ses-1_T1w.nii.gz", "sub-1_ses-1_T2w.nii.gz"]
    _, problems = scan(files, tmp_path, patient=r"(pat[0-9]+)", **options)
    assert [p.reason for p in problems] == ["no_patient"] * 3
    assert {p.message for p in problems} == {
        "`data.layout.patient: '(pat[0-9]+)'` must match the whole case id, and does not; correct it"
    }
    _, problems = scan(files, tmp_path, patient=r"(sub-[0-9]+)", **options)
    assert {p.message.split("; ")[1] for p in problems} == {"write '(sub-[0-9]+).*', which does"}


@pytest.mark.parametrize("name", ["brats", "flare", "msd", "nnunet"])
def test_every_layout_that_takes_each_case_as_a_patient_can_be_told_otherwise(
    name: str, phantom: Callable[[str], Path]
) -> None:
    root = phantom(name)
    cases, _ = scan(LAYOUTS[name], root)
    assert [case.patient_id for case in cases] == [case.id for case in cases]
    cases, problems = scan(LAYOUTS[name], root, patient="(.+)_.*")
    assert problems == []
    assert [case.patient_id for case in cases] == [case.id.rpartition("_")[0] for case in cases]
    cases, problems = scan(LAYOUTS[name], root, patient="(x+)")
    assert (cases, {p.reason for p in problems}) == ([], {"no_patient"})
    with pytest.raises(ValueError, match="patient needs one group"):
        scan(LAYOUTS[name], root, patient="x")


@pytest.mark.fault(36)
def test_files_names_the_unpaired_on_the_real_defect(real: Path) -> None:
    _, problems = scan(files, real / "defects/hippocampus_unpaired")
    assert said(problems) == [
        ("hippocampus_010", "unpaired"),
        ("hippocampus_281", "unpaired"),
        ("hippocampus_118", "unpaired"),
    ]
    assert [p.message.split(";")[0] for p in problems] == ["label without an image"] * 2 + ["image without a label"]


@pytest.mark.fault(36)
def test_files_reports_a_channel_that_is_missing(tmp_path: Path, touch: Touch) -> None:
    touch("images/a_0000.nii.gz", "images/a_0001.nii.gz", "images/b_0000.nii.gz", "labels/a.nii.gz", "labels/b.nii.gz")
    cases, problems = scan(files, tmp_path, images=["images/{case}_0000.nii.gz", "images/{case}_0001.nii.gz"])
    assert [c.id for c in cases] == ["a"]
    assert said(problems) == [("b", "missing_modality")]
    assert "images/{case}_0001.nii.gz" in problems[0].message


@pytest.mark.parametrize(
    ("image", "label"),
    [("{case}.nii.gz", "{case}_seg.nii.gz"), ("{case}_0000.nii.gz", "{case}.nii.gz")],
)
def test_files_in_one_folder_are_told_apart_by_the_longer_pattern(
    tmp_path: Path, touch: Touch, image: str, label: str
) -> None:
    touch(*(pattern.format(case=name) for name in "ab" for pattern in (image, label)))
    cases, problems = scan(files, tmp_path, images=[image], label=label)
    assert problems == []
    assert [c.id for c in cases] == ["a", "b"]
    assert cases[0].images == (tmp_path / image.format(case="a"),)
    assert cases[0].label == tmp_path / label.format(case="a")


def test_files_takes_metaimages(tmp_path: Path) -> None:
    array = np.random.default_rng(0).integers(0, 2, (3, 4, 5)).astype(np.uint8)
    for folder in ("images", "labels"):
        (tmp_path / folder).mkdir()
        sitk.WriteImage(sitk.GetImageFromArray(array), str(tmp_path / folder / "a.mha"))
    cases, problems = scan(files, tmp_path, images=["images/{case}.mha"], label="labels/{case}.mha")
    assert problems == []
    loaded = load_case(cases[0], LabelMap.consecutive(["background", "a"]))
    assert loaded.label is not None
    assert loaded.label.tolist() == array.T.tolist()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"images": ["images/a.nii.gz"]}, "once, in the file name"),
        ({"images": ["{case}/image.nii.gz"]}, "once, in the file name"),
        ({"images": ["../{case}.nii.gz"]}, "below the folder"),
        ({"label": "/labels/{case}.nii.gz"}, "below the folder"),
        ({"label": "{case}_{case}.nii.gz"}, "once, in the file name"),
        ({"patient": "sub.*"}, "one group in parentheses"),
        ({"patient": "(sub"}, "no regular expression"),
    ],
)
def test_files_refuses_patterns_that_cannot_work(tmp_path: Path, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        scan(files, tmp_path, **options)
