"""Errors are told in words of the user: what was expected, what came, the fix; never in those of a library."""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import torch
from helpers import REPOSITORY
from safetensors.torch import save_file

import medcalib
from medcalib import calibrators
from medcalib.config import load
from medcalib.config.bundled import resolve
from medcalib.config.dataset import scan
from medcalib.config.references import paired
from medcalib.data.case import Case
from medcalib.data.labels import LabelMap
from medcalib.data.load import LoadedCase, load_case
from medcalib.data.nifti import read_volume, write_volume
from medcalib.data.phantom import write_dataset
from medcalib.data.predictions import channels_of, flat_references
from medcalib.data.transforms import Preprocess
from medcalib.errors import CheckpointError, ConfigError, DataError
from medcalib.files import read_json
from medcalib.networks import NETWORKS

PACKAGE = Path(medcalib.__file__).parent
PARTS = ("data", "config", "calibrators", "files.py", "options.py", "networks.py")
TOLD = ("ValueError", "ConfigError", "DataError", "CheckpointError", "Problem")
JARGON = {"KeyError", "IndexError", "AttributeError", "TypeError"}
AFFINE = np.diag([1.0, 1.0, 2.0, 1.0])
LABEL = np.zeros((4, 4, 4), np.uint8)


def sources() -> Iterator[tuple[Path, ast.Module]]:
    """Every module whose messages this file watches."""
    for part in PARTS:
        found = PACKAGE / part
        for path in sorted(found.rglob("*.py")) if found.is_dir() else [found]:
            yield path.relative_to(PACKAGE), ast.parse(path.read_text())


def told(tree: ast.AST) -> Iterator[ast.Call]:
    """The calls that make an error or a problem."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in TOLD:
            yield node


def literal(node: ast.AST) -> str:
    return "".join(part.value for part in ast.walk(node) if isinstance(part, ast.Constant) and type(part.value) is str)


def test_every_message_shows_what_came_or_how_to_correct_it() -> None:
    """A constant text without a fix (behind `;`, `:` or `,`) tells the user nothing of the case at hand."""
    bare = [
        f"{path}:{call.lineno}: {literal(call.args[-1])}"
        for path, tree in sources()
        for call in told(tree)
        if call.args
        and isinstance(call.args[-1], ast.Constant)
        and not any(sign in str(call.args[-1].value) for sign in (";", ":", ",", "warning"))
    ]
    assert bare == []


def test_no_message_repeats_what_python_says_of_a_missing_key_or_a_wrong_type() -> None:
    """`str(KeyError("codes"))` is `'codes'`, and "'int' object is not iterable" names nothing that a user wrote."""
    repeated = []
    for path, tree in sources():
        for handler in (node for node in ast.walk(tree) if isinstance(node, ast.ExceptHandler) and node.name):
            caught = {part.id for part in ast.walk(handler.type or handler) if isinstance(part, ast.Name)}
            shown = [
                part
                for statement in handler.body
                for part in ast.walk(statement)
                if isinstance(part, ast.FormattedValue) and ast.unparse(part.value) == handler.name
            ]
            if caught & JARGON and shown:
                repeated.append(f"{path}:{handler.lineno}")
    assert repeated == []


def test_no_message_is_longer_than_three_lines() -> None:
    long = [f"{p}:{call.lineno}" for p, tree in sources() for call in told(tree) if len(literal(call)) > 360]
    assert long == []


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b'{"a": [1, 2,]}', "line 1, column 13: a comma before ]; delete it"),
        (b'{\n "a": 1,\n}', "a comma before }; delete it"),
        (b"", "line 1, column 1: it is empty"),
        (b'{"a": }', "line 1, column 7: Expecting value"),
        (b'"\xff"', "it is no UTF-8 text"),
        (b"[" * 100_000, "nested too deeply"),
    ],
)
def test_broken_json_is_named_with_its_place(tmp_path: Path, content: bytes, words: str) -> None:
    (tmp_path / "dataset.json").write_bytes(content)
    with pytest.raises(DataError) as caught:
        read_json(tmp_path / "dataset.json")
    assert str(caught.value).startswith(f"{tmp_path / 'dataset.json'} is no readable JSON file: ")
    assert words in str(caught.value)


def sidecar(**changes: Any) -> dict[str, Any]:
    whole = {"class_names": ["background", "a", "b"], "codes": [[0], [1], [2]], "activation": "softmax"} | changes
    return {key: value for key, value in whole.items() if value is not ...}


@pytest.mark.parametrize(
    ("meta", "words"),
    [
        ([1], "it holds a list, not a mapping"),
        (sidecar(class_names=...), 'expected `class_names` such as ["background", "tumor"], there is none'),
        (sidecar(codes=...), "expected `codes` such as [[0], [1], [2, 3]], there is none"),
        (sidecar(codes=[0, 1, 2]), "expected `codes` such as [[0], [1], [2, 3]], got [0, 1, 2]"),
        (sidecar(codes=3), "got 3"),
        (sidecar(codes=[[0], [1]]), "`class_names` has 3 and `codes` 2 entries"),
        (sidecar(codes=[[1], [0], [2]]), "the first class must be the background, with code 0, got [1]"),
        (sidecar(class_names=["a", "b", "b"]), "each needs a printable name of its own, got ('a', 'b', 'b')"),
        (sidecar(scale="abc"), "expected `scale` above 0, the stored value of probability 1, got 'abc'"),
        (sidecar(scale=[1]), "expected `scale` above 0"),
        (sidecar(axes="xyz"), "expected `axes` ijk or kji, got 'xyz'"),
        (sidecar(activation="sigmod"), "expected `activation` of softmax, logits, sigmoid, got 'sigmod'"),
        (sidecar(activation="sigmoid", groups=["a"]), "expected `groups` such as"),
        (sidecar(activation="sigmoid", groups={"a": 1}), "expected `groups` such as"),
        (sidecar(groups={"a": [1]}), "`groups` need `activation` sigmoid, got softmax"),
    ],
)
def test_a_sidecar_is_corrected_by_its_message(tmp_path: Path, meta: Any, words: str) -> None:
    (tmp_path / "c.json").write_text(json.dumps(meta))
    with pytest.raises(DataError) as caught:
        channels_of(tmp_path / "c.nii.gz", None)
    assert caught.value.reason == "bad_sidecar"
    assert words in str(caught.value)
    assert str(caught.value).endswith(("; correct it", "; correct it, or pass --config"))


def pair_folders(tmp_path: Path) -> tuple[Path, Path]:
    for name in ("predictions", "labels"):
        (tmp_path / name).mkdir()
    return tmp_path / "predictions", tmp_path / "labels"


def refusals(predictions: Path, labels: Path) -> dict[str, str]:
    return {entry["case"]: entry["message"] for entry in paired(predictions, labels, None)[1]}


def test_swapped_folders_and_names_that_differ_are_noticed(tmp_path: Path) -> None:
    predictions, labels = pair_folders(tmp_path)
    write_volume(labels / "c1.nii.gz", LABEL, AFFINE)
    write_volume(predictions / "c1.nii.gz", np.full((4, 4, 4, 2), 0.5, np.float32), AFFINE)
    (predictions / "c1.json").write_text(json.dumps({"class_names": ["b", "a"], "codes": [[0], [1]]}))
    assert refusals(predictions, labels) == {}
    assert "c1.nii.gz is a label map: are predictions and labels swapped?" in refusals(labels, predictions)["c1"]
    (labels / "c1.nii.gz").rename(labels / "c1_gt.nii.gz")
    told = refusals(predictions, labels)
    assert told["c1"] == "no reference label for this prediction; there is c1_gt: name both alike, <case>"
    assert told["c1_gt"].endswith("; there is c1: name both alike, <case>")


def test_a_folder_without_predictions_is_named_for_what_it_is(tmp_path: Path) -> None:
    predictions, labels = pair_folders(tmp_path)
    write_volume(labels / "c1.nii.gz", LABEL, AFFINE)
    assert f"{predictions} holds no prediction at all" in refusals(predictions, labels)["c1"]
    (predictions / "config.yaml").write_text("name: x\n")
    assert f"{predictions} is a run: `predict` it first" in refusals(predictions, labels)["c1"]
    for path, came in ((tmp_path / "absent", "it does not exist"), (labels / "c1.nii.gz", "it is a file")):
        with pytest.raises(DataError, match=f"is no folder of predictions: {came}; correct --predictions"):
            paired(path, labels, None)
        with pytest.raises(DataError, match=f"is no folder of labels: {came}; correct --labels"):
            flat_references(path)
    (labels / "c1.nii.gz").rename(labels / "c1.dcm")
    with pytest.raises(DataError, match=r"holds no <case>\.nii\.gz \(but \.dcm: convert them to NIfTI\)"):
        flat_references(labels)


def rgb(path: Path) -> None:
    kinds = np.dtype([("R", "u1"), ("G", "u1"), ("B", "u1")])
    nib.save(nib.Nifti1Image(np.zeros((2, 2, 2), kinds), np.eye(4)), path)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda path: path.write_bytes(b"\0" * 128 + b"DICM" + b"Doe^Jane" * 50), "a DICOM file; convert the series"),
        (lambda path: path.write_bytes(b"PK\3\4" + b"x" * 600), "a ZIP archive; unpack it"),
        (lambda path: path.write_bytes(b"\x89PNG\r\n" + b"x" * 600), "a PNG picture"),
        (rgb, "stores color (RGB) voxels; integers or real floats are needed: convert it"),
        (lambda path: nib.save(nib.Nifti1Image(LABEL[0], np.eye(4)), path), "slices must be stacked into one"),
        (lambda path: path.write_bytes(b""), "is empty; copy it again"),
    ],
)
def test_a_file_that_is_no_volume_is_named_without_a_word_of_its_content(
    tmp_path: Path, make: Callable[[Path], object], words: str
) -> None:
    for name in ("x.nii.gz", "x.nii"):
        make(tmp_path / name)
        with pytest.raises(DataError) as caught:
            read_volume(tmp_path / name)
        assert words in str(caught.value)
        assert "Jane" not in str(caught.value)


def test_the_wrong_folder_is_told_once_with_what_the_layout_expects(tmp_path: Path) -> None:
    data = load(REPOSITORY / "configs" / "phantom.yaml").data
    root = write_dataset("acdc", 2, 0, tmp_path / "some" / "acdc", shape=(16, 16, 4))
    for wrong in (root / "training" / "patient001", tmp_path, tmp_path / "some"):
        (tmp_path / "other").mkdir(exist_ok=True)
        cases, problems = scan(data, wrong)
        assert (cases, [p.reason for p in problems]) == ([], ["no_case"])
        assert "pass the folder that holds" in problems[0].message
        assert "(`data.layout`: acdc)" in problems[0].message
    excluded = data.model_copy(update={"exclude": ("patient001", "patient002")})
    assert scan(excluded, root)[1][0].message == "no case is left: `data.exclude` leaves out all 4"
    assert "the data folder is a file" in scan(data, root / "training/patient001/Info.cfg")[1][0].message


def test_a_folder_of_the_name_of_a_shipped_config_hides_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("acdc", "mine"):
        (tmp_path / name).mkdir()
    assert resolve("acdc").name == "acdc.yaml"
    with pytest.raises(ConfigError, match="mine: is a folder; name the YAML file"):
        resolve("mine")


@pytest.mark.parametrize(
    ("network", "options", "words"),
    [
        ("unet", {"dropout": 1.5}, "dropout must lie in [0, 1), got 1.5"),
        ("unet", {"kernel_size": 2}, "kernel_size must be odd and positive, got 2"),
        ("unet", {"num_res_units": -1}, "num_res_units must be 0 or more, got -1"),
        ("dynunet", {"dropout": -0.1}, "dropout must lie in [0, 1), got -0.1"),
        ("dynunet", {"kernel_size": (3, (3, 2, 3), 3, 3)}, "kernel_size must be odd and positive, got [3, 2, 3]"),
        ("segresnet", {"dropout": 1.0}, "dropout must lie in [0, 1), got 1.0"),
        ("segresnet", {"blocks_down": (), "blocks_up": ()}, "blocks_down needs at least one level, got 0"),
        ("segresnet", {"blocks_down": (0, 1), "blocks_up": (1,)}, "blocks_down needs a positive number a level, got 0"),
    ],
)
def test_a_network_that_cannot_be_built_is_refused_before_the_data_is_read(
    network: str, options: dict[str, Any], words: str
) -> None:
    build, divisor = NETWORKS[network]
    defaults = dict(build.__kwdefaults__)
    divisor(defaults)
    for trial in (lambda: divisor(defaults | options), lambda: build(1, 2, **options)):
        with pytest.raises(ValueError, match=re.escape(words)):
            trial()


def test_a_voxel_size_that_no_memory_holds_is_refused() -> None:
    affine = np.diag([1.0, 2.0, 3.0, 1.0])
    case = LoadedCase(Case("c1", "p", (), None), np.zeros((1, 60, 60, 60), np.float32), affine)
    with pytest.raises(DataError, match=r"c1: resampled to .* 6000 x 12000 x 18000 voxels; choose a larger") as caught:
        Preprocess("RAS", (0.01, 0.01, 0.01), lambda image: image)(case)
    assert caught.value.reason == "too_large"


@pytest.mark.parametrize(
    ("meta", "words"),
    [
        (None, "is no saved calibrator, or is damaged; name what `calibrate` wrote"),
        ({"num_classes": 2, "facts": {}}, "its description is incomplete; fit it again with `calibrate`"),
        ({"method": "vector", "num_classes": 2, "facts": {}}, "expected the parameters weight, bias, got temperature"),
    ],
)
def test_a_file_that_is_no_calibrator_is_told_without_python(tmp_path: Path, meta: Any, words: str) -> None:
    described = {} if meta is None else {"medcalib": json.dumps(meta)}
    save_file({"temperature_": torch.ones((), dtype=torch.float64)}, tmp_path / "x.safetensors", described)
    with pytest.raises(CheckpointError) as caught:
        calibrators.load(tmp_path / "x.safetensors")
    assert words in str(caught.value)
    with pytest.raises(CheckpointError, match="is no saved calibrator: it is missing; name the file"):
        calibrators.load(tmp_path / "absent.safetensors")


def test_a_label_elsewhere_is_told_with_both_grids(tmp_path: Path) -> None:
    image, label = tmp_path / "image.nii.gz", tmp_path / "label.nii.gz"
    write_volume(image, LABEL, AFFINE)
    classes = LabelMap.consecutive(["background", "a"])
    write_volume(label, LABEL, np.diag([2.0, 2.0, 2.0, 1.0]))
    grids = r"the grid of the image \(RAS, voxels of 2 x 2 x 2 mm against RAS, voxels of 1 x 1 x 2"
    with pytest.raises(DataError, match=grids):
        load_case(Case("c", "c", (image,), label), classes)
    write_volume(label, LABEL[:3], AFFINE)
    with pytest.raises(DataError, match=r"shape \(3, 4, 4\) does not fit that of the image, \(4, 4, 4\); is it"):
        load_case(Case("c", "c", (image,), label), classes)
    write_volume(label, np.eye(2, dtype=np.uint8)[LABEL], AFFINE)
    with pytest.raises(DataError, match=r"a label is 3-D, .*no one-hot"):
        load_case(Case("c", "c", (image,), label), classes)
