"""One folder whose cases each have another fault, met by `check` and `score`: every one by name, the others go on."""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import nibabel as nib
import numpy as np
import pytest
from helpers import LPS
from numpy.typing import NDArray
from typer.testing import CliRunner

from medcalib.cli import app
from medcalib.data.case import Case
from medcalib.data.labels import LabelMap
from medcalib.data.nifti import write_volume
from medcalib.data.predictions import write_prediction

SHAPE = (7, 6, 5)
RNG = np.random.default_rng(0)
IMAGE = RNG.random(SHAPE).astype(np.float32)
LABEL = RNG.integers(0, 4, SHAPE).astype(np.uint8)
PROBS = (0.7 * np.eye(4)[LABEL].transpose(3, 0, 1, 2) + 0.075).astype(np.float32)
CLASSES = LabelMap.consecutive(["background", "RV", "MYO", "LV"])
FLIP = np.diag([1.0, -1, 1, 1])
FLIP[1, 3] = SHAPE[1] - 1
SHEARED = LPS.copy()
SHEARED[0, 1] = 0.4
MOVED = LPS.copy()
MOVED[2, 3] += 0.4  # of voxels of 1.5 mm: a tenth is tolerated
Spoil = Callable[[Path], None]


@dataclass(frozen=True)
class Spoiled:
    """A case: the faults that it shows, which of its files is spoiled and how, and why it is refused (None: it is not).

    `warning`: what is said of a case that is read. `prediction`: the affine of its prediction, if it is another one.
    """

    faults: tuple[int, ...]
    part: Literal["image", "label", "both"]
    spoil: Spoil
    reason: str | None = None
    warning: str | None = None
    prediction: NDArray[Any] | None = None


def content(change: Callable[[bytes], bytes]) -> Spoil:
    """Change the bytes of the file."""

    def spoil(path: Path) -> None:
        path.write_bytes(change(path.read_bytes()))

    return spoil


def replaced(raw: bytes) -> Spoil:
    """Other bytes in its place."""
    return content(lambda _: raw)


def unpacked(change: Callable[[bytes], bytes]) -> Spoil:
    """Change the bytes within the compression."""
    return content(lambda raw: gzip.compress(change(gzip.decompress(raw))))


def patched(offset: int, values: NDArray[Any]) -> Spoil:
    """Change bytes of the header."""
    raw = values.tobytes()
    return unpacked(lambda whole: whole[:offset] + raw + whole[offset + len(raw) :])


def volume(array: NDArray[Any], affine: NDArray[Any] = LPS) -> Spoil:
    """Another volume, by nibabel: it writes what this software never would."""
    return lambda path: nib.save(nib.Nifti1Image(array, affine, dtype=array.dtype), path)


def sheared(path: Path) -> None:
    image = nib.Nifti1Image(np.asarray(nib.load(path).dataobj), None)
    image.set_sform(SHEARED, 1)
    image.header["pixdim"][1:4] = np.linalg.norm(SHEARED[:3, :3], axis=0)
    nib.save(image, path)


def qform(affine: NDArray[Any]) -> Spoil:
    def spoil(path: Path) -> None:
        image = nib.Nifti1Image(np.asarray(nib.load(path).dataobj), LPS)
        image.set_sform(LPS, 1)
        image.set_qform(affine, 1)
        nib.save(image, path)

    return spoil


def scaled(path: Path) -> None:
    image = nib.Nifti1Image(LABEL, LPS)
    image.header.set_slope_inter(0.5, 0.1)
    nib.save(image, path)
    patched(112, np.array([0.5, 0.1], "<f4"))(path)


RGB = np.zeros(SHAPE, [("R", "u1"), ("G", "u1"), ("B", "u1")])
NAN_LABEL = np.where(LABEL == 1, np.nan, LABEL).astype(np.float32)
NAN_IMAGE = np.where(LABEL == 1, np.inf, IMAGE).astype(np.float32)
CASES = {
    "sound": Spoiled((), "label", content(bytes)),
    "cut": Spoiled((19,), "label", content(lambda raw: raw[: len(raw) // 2]), "truncated"),
    "cut_image": Spoiled((19,), "image", content(lambda raw: raw[:-1]), "damaged_gzip"),
    "flip": Spoiled((20,), "label", content(lambda raw: raw[:-20] + bytes([raw[-20] ^ 8]) + raw[-19:]), "damaged_gzip"),
    "checksum": Spoiled((21,), "label", content(lambda raw: raw[:-8] + bytes(4) + raw[-4:]), "damaged_gzip"),
    "size": Spoiled((21,), "label", content(lambda raw: raw[:-4] + bytes(4)), "damaged_gzip"),
    "empty": Spoiled((22,), "label", replaced(b""), "empty_file"),
    "html": Spoiled((23,), "label", replaced(b"<html>404</html>"), "not_gzip"),
    "pointer": Spoiled((23,), "image", replaced(b"version https://git-lfs.github.com/spec/v1"), "not_gzip"),
    "garbage": Spoiled((24,), "label", replaced(gzip.compress(b"garbage" * 99)), "not_nifti"),
    "plain": Spoiled((25,), "label", content(gzip.decompress), "not_gzip"),
    "huge": Spoiled((26,), "label", patched(42, np.array([32767] * 3, "<i2")), "too_large"),
    "bomb": Spoiled((27,), "label", unpacked(lambda raw: raw + bytes(10_000_000)), "trailing_data"),
    "four": Spoiled((28,), "label", volume(np.stack([LABEL, LABEL], -1)), "bad_shape"),
    "flat": Spoiled((28,), "label", volume(LABEL[..., 0]), "bad_shape"),
    "zero": Spoiled((28,), "label", patched(44, np.array([0], "<i2")), "bad_shape"),
    "leading": Spoiled((28,), "label", volume(LABEL[None]), "bad_shape"),
    "trailing": Spoiled((28,), "label", volume(LABEL[..., None])),
    "complex": Spoiled((29,), "label", volume(LABEL.astype(np.complex64)), "bad_dtype"),
    "rgb": Spoiled((29,), "label", volume(RGB), "bad_dtype"),
    "half": Spoiled((29,), "label", volume((LABEL / 2).astype(np.float32)), "label_not_integer"),
    "scaled": Spoiled((29,), "label", scaled, "label_not_integer"),
    "floats": Spoiled((29,), "label", volume(LABEL.astype(np.float64))),
    "int64": Spoiled((29,), "label", volume(LABEL.astype(np.int64))),
    "nan_label": Spoiled((30,), "label", volume(NAN_LABEL), "label_not_finite"),
    "nan_image": Spoiled((30,), "image", volume(NAN_IMAGE), "image_not_finite"),
    "sheared": Spoiled((31,), "both", sheared, None, "sheared_affine", SHEARED),
    "qform": Spoiled((32,), "both", qform(LPS @ FLIP), None, "qform_differs"),
    "pixdim": Spoiled((32,), "both", patched(80, np.zeros(3, "<f4")), None, "no_pixdim"),
    "nan_affine": Spoiled((32,), "label", patched(280, np.array([np.nan], "<f4")), "bad_affine"),
    "singular": Spoiled((32,), "label", patched(280, np.zeros(4, "<f4")), "bad_affine"),
    "shape": Spoiled((33,), "label", volume(LABEL[1:]), "shape_mismatch"),
    "moved": Spoiled((34,), "label", volume(LABEL, MOVED), "affine_mismatch"),
    "near": Spoiled((34,), "label", volume(LABEL, LPS + (MOVED - LPS) / 4)),
    "flipped": Spoiled((35,), "label", volume(LABEL, LPS * [[1], [-1], [1], [1]]), "affine_mismatch"),
    "turned": Spoiled((35,), "label", volume(LABEL[:, ::-1], LPS @ FLIP)),
    "range": Spoiled((37,), "label", volume(np.where(LABEL == 3, 255, LABEL).astype(np.uint8)), "unknown_label"),
    "background": Spoiled((38,), "label", volume(0 * LABEL), None, "empty_label"),
    "zeros": Spoiled((39,), "image", volume(0 * IMAGE), "constant_image"),
}
UNSCORED = {name for name, case in CASES.items() if case.reason and case.part != "image"}


@dataclass(frozen=True)
class Found:
    """What the two commands said: exit codes, problems by case, scores."""

    codes: tuple[int, int]
    problems: dict[str, list[dict[str, str]]]
    scores: dict[str, Any]


def run(*arguments: object) -> tuple[int, str]:
    found = CliRunner().invoke(app, [str(argument) for argument in arguments])
    assert isinstance(found.exception, SystemExit | None), found.exception
    return found.exit_code, found.stdout


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> Found:
    folder = tmp_path_factory.mktemp("faults")
    for name, case in CASES.items():
        files = {part: folder / "data" / f"{part}s" / f"{name}.nii.gz" for part in ("image", "label")}
        write_volume(files["image"], IMAGE, LPS)
        write_volume(files["label"], LABEL, LPS)
        for part, path in files.items():
            if case.part in (part, "both"):
                case.spoil(path)
        affine = LPS if case.prediction is None else case.prediction
        write_prediction(folder / "predictions", Case(name, name, ()), PROBS, affine, CLASSES, {})
    config = ["--set", "data.layout=files", "--set", "split.test=0.2"]
    code, text = run("check", "phantom", "--data", folder / "data", *config, "--json")
    problems: dict[str, list[dict[str, str]]] = {}
    for problem in json.loads(text)["problems"]:
        problems.setdefault(problem["where"], []).append(problem)
    pair = ["--predictions", folder / "predictions", "--labels", folder / "data", "--config", "phantom", *config]
    scored, _ = run("score", *pair, "--out", folder / "scores")
    return Found((code, scored), problems, json.loads((folder / "scores" / "scores.json").read_text()))


def test_every_case_is_accounted_for(found: Found) -> None:
    assert found.codes == (3, 4)
    assert {entry["case"] for entry in found.scores["refused"]} == UNSCORED
    assert set(found.scores["cases"]) == CASES.keys() - UNSCORED
    assert (found.scores["n_expected"], found.scores["n_scored"]) == (len(CASES), len(CASES) - len(UNSCORED))
    errors = {where for where, told in found.problems.items() if any(p["level"] == "error" for p in told)}
    assert errors == {name for name, case in CASES.items() if case.reason}


@pytest.mark.parametrize(
    "name",
    [pytest.param(name, marks=[pytest.mark.fault(*case.faults)] * bool(case.faults)) for name, case in CASES.items()],
)
def test_a_spoiled_case_is_told_by_check_and_score(found: Found, name: str) -> None:
    case = CASES[name]
    told = {(p["reason"], p["level"]) for p in found.problems.get(name, [])}
    assert told == ({(case.reason, "error")} if case.reason else {(case.warning, "warning")} if case.warning else set())
    if name in UNSCORED:
        (refusal,) = [entry for entry in found.scores["refused"] if entry["case"] == name]
        assert refusal["reason"] == case.reason
        assert f"{name}.nii.gz" in refusal["message"]
        return
    numbers = found.scores["cases"][name]
    assert numbers["regions"]["all"]["ece"] is not None
    if name != "background":  # whatever way it was stored, it is the same label
        assert set(numbers["dice"].values()) == {1.0}


@pytest.mark.fault(38)
def test_dice_of_an_absent_class_is_null_or_0_and_the_ece_is_defined(found: Found) -> None:
    """Where the reference has no foreground and the prediction has some, Dice is 0; where neither has, null."""
    numbers = found.scores["cases"]["background"]
    assert set(numbers["dice"].values()) == {0.0}
    assert 0 < numbers["regions"]["all"]["ece"] < 1


@pytest.mark.fault(29, 37)
def test_refused_values_are_listed(found: Found) -> None:
    messages = {entry["case"]: entry["message"] for entry in found.scores["refused"]}
    assert f"255 ({(LABEL == 3).sum()} voxels)" in messages["range"]
    assert "0.5, 1.5" in messages["half"]
    assert "0.1, 0.6" in messages["scaled"]


def write_case(folder: Path, name: str, image: NDArray[Any], label: NDArray[Any], affine: NDArray[Any] = LPS) -> None:
    write_volume(folder / "images" / f"{name}.nii.gz", image, affine)
    write_volume(folder / "labels" / f"{name}.nii.gz", label, affine)


def problems_of(data: Path, *options: str) -> tuple[int, dict[str, list[str]]]:
    """Exit code of `check` and its reasons by place."""
    config = [part for option in ("data.layout=files", "split.test=0.2", *options) for part in ("--set", option)]
    code, text = run("check", "phantom", "--data", data, *config, "--json")
    told: dict[str, list[str]] = {}
    for problem in json.loads(text)["problems"]:
        told.setdefault(problem["where"], []).append(problem["reason"])
    return code, told


@pytest.fixture
def five(tmp_path: Path) -> Path:
    for k in range(5):
        write_case(tmp_path / "data", f"c{k}", IMAGE, LABEL)
    return tmp_path / "data"


@pytest.mark.fault(30)
def test_the_policy_for_voxels_that_are_not_finite_is_the_configs(five: Path) -> None:
    write_case(five, "c1", NAN_IMAGE, LABEL)
    assert problems_of(five) == (3, {"c1": ["image_not_finite"]})
    assert problems_of(five, "data.nonfinite=zero") == (0, {})
    write_case(five, "c1", NAN_IMAGE, NAN_LABEL)
    assert problems_of(five, "data.nonfinite=zero") == (3, {"c1": ["label_not_finite"]})


@pytest.mark.fault(31)
def test_a_sheared_case_is_refused_where_it_would_be_resampled(five: Path) -> None:
    for part in ("images", "labels"):
        sheared(five / part / "c1.nii.gz")
    assert problems_of(five) == (0, {"c1": ["sheared_affine"]})
    code, told = problems_of(five, "preprocess.spacing_mm=[1, 1, 1]")
    assert (code, sorted(told["c1"])) == (3, ["sheared_affine", "sheared_resampling"])


@pytest.mark.fault(36)
def test_missing_and_extra_files_are_named_by_check(five: Path) -> None:
    (five / "labels" / "c1.nii.gz").unlink()
    (five / "images" / "c2.nii.gz").unlink()
    code, told = problems_of(five)
    assert (code, told["c2"]) == (3, ["unpaired"])
    assert set(told["c1"]) == {"unpaired", "no_label"}
    code, told = problems_of(five, "data.skip_unpaired=true", "split.folds=2")
    assert (code, [*told.values()]) == (0, [["unpaired"], ["unpaired"]])


@pytest.mark.fault(37)
def test_the_code_to_ignore_is_honored(five: Path) -> None:
    write_case(five, "c1", IMAGE, np.where(LABEL == 3, 255, LABEL).astype(np.uint8))
    assert problems_of(five) == (3, {"c1": ["unknown_label"]})
    assert problems_of(five, "data.ignore_label=255") == (0, {})


@pytest.mark.fault(39)
def test_an_image_of_zeros_is_refused_by_name(five: Path) -> None:
    write_case(five, "c1", 0 * IMAGE, LABEL)
    assert problems_of(five, "preprocess.intensity={name: zscore, nonzero: true}") == (3, {"c1": ["constant_image"]})
