"""Any files whatever in a data folder: a layout ends, says what is wrong, and finds nothing outside the folder."""

from __future__ import annotations

import json
import os
import tempfile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from medcalib.data.case import Case
from medcalib.data.check import find_cases
from medcalib.data.layouts import LAYOUTS
from medcalib.files import CASE_ID

IDS = st.sampled_from(
    ["a", "A", "b_0000", "a_gt", "a_t1", "a_seg", "x" * 230, "..", ".hid", "CON", "\u0430", "é", "a b"]
)
SUFFIXES = st.sampled_from(
    ["", ".nii", ".nii.gz", "_0000.nii.gz", "_0001.nii", "_gt.nii.gz", "_seg.nii", ".mha", ".txt"]
)
FOLDERS = [
    "",
    "images",
    "labels",
    "imagesTr",
    "labelsTr",
    "training",
    "training/a",
    "testing/b",
    "HGG/a",
    "a",
    "T/imagesTr",
]
PATHS = st.sampled_from(
    [
        "imagesTr/a.nii.gz",
        "labelsTr/a.nii.gz",
        "../a.nii.gz",
        "/etc/a.nii.gz",
        "a/../../b.nii",
        "",
        "x" * 300 + ".nii",
        "a\0b.nii",
    ]
)
VALUES = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(-2, 10**20), st.text(max_size=4), PATHS),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3), st.dictionaries(PATHS | st.text(max_size=3), inner, max_size=3)
    ),
    max_leaves=6,
)
ENTRIES = st.lists(VALUES | st.fixed_dictionaries({"image": PATHS, "label": PATHS}), max_size=4)
BLOCK = st.dictionaries(
    st.sampled_from(["a", "../../evil", "/abs", "x" * 300, "a\0b"]),
    VALUES | st.fixed_dictionaries({"images": st.lists(PATHS, max_size=2), "label": PATHS}),
    max_size=3,
)
DESCRIPTIONS = st.fixed_dictionaries(
    {},
    optional={
        "training": ENTRIES | VALUES, "channel_names": VALUES, "modality": VALUES | st.just({"0": "MR"}),
        "dataset": BLOCK | VALUES, "numTraining": VALUES,
    },
)  # fmt: skip
INFO = st.sampled_from(["ED: 1\nES: 4\n", "ED: 1", "ES: " + "9" * 5000, "ED: \u0661\nES: -1", "\0", "ED 1\n:::"])


def made(root: Path, draw: st.DataObject) -> None:
    """Files, links and descriptions of any kind below `root`, and files beside it that must not be found."""
    for _ in range(draw.draw(st.integers(0, 8))):
        path = root / draw.draw(st.sampled_from(FOLDERS)) / (draw.draw(IDS) + draw.draw(SUFFIXES))
        kind = draw.draw(st.sampled_from(["file", "file", "file", "folder", "loop", "circle", "bytes"]))
        put(path, kind)
    for folder in ("", "T"):
        if draw.draw(st.booleans()):
            (root / folder).mkdir(exist_ok=True)
            (root / folder / "dataset.json").write_text(json.dumps(draw.draw(DESCRIPTIONS)), encoding="utf-8")
    for folder in ("a", "training/a"):
        if (root / folder).is_dir():
            (root / folder / "Info.cfg").write_text(draw.draw(INFO), encoding="utf-8")
    (root.parent / "a.nii.gz").write_bytes(b"outside")
    (root.parent / "b.nii").write_bytes(b"outside")


def put(path: Path, kind: str) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        if kind == "folder":
            path.mkdir()
        elif kind == "loop":
            path.symlink_to(path)
        elif kind == "circle":
            path.symlink_to(path.parent, target_is_directory=True)
        elif kind == "bytes":
            (path.parent / os.fsdecode(b"\xff\xfe.nii.gz")).write_bytes(b"x")
        else:
            path.write_bytes(b"x")
    except OSError:  # there is something else already, or no system allows the name
        return


def options_of(name: str, draw: st.DataObject) -> dict[str, Any]:
    choices: dict[str, list[dict[str, Any]]] = {
        "brats": [{}, {"modalities": ["t1"]}, {"modalities": ["t1"], "label_files": {"a": "../a.nii.gz"}}],
        "files": [
            {}, {"images": ["{case}.nii"], "label": "{case}_seg.nii"}, {"patient": "(x)?.*"}, {"label": "../{case}.nii"}
        ],
        "flare": [{}, {"images": "../"}, {"labels": "/"}, {"images": "a", "labels": "a"}],
    }  # fmt: skip
    return draw.draw(st.sampled_from(choices.get(name, [{}])))


def files_of(case: Case) -> list[Path]:
    return [path for path in (*case.images, case.label, case.posterior) if path is not None]


@pytest.mark.fault(16, 18, 36)
@pytest.mark.parametrize("name", sorted(LAYOUTS))
@given(data=st.data())
@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_a_layout_ends_and_finds_nothing_outside_whatever_lies_there(name: str, data: st.DataObject) -> None:
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder, "data")
        root.mkdir()
        made(root, data)
        options = options_of(name, data)
        if ".." in str(options) or "'/'" in str(options):
            with pytest.raises(ValueError, match="below the folder"):
                find_cases(LAYOUTS[name], root, options)
            return
        cases, problems = find_cases(LAYOUTS[name], root, options)
        refused = {problem.where for problem in problems if problem.level == "error"}
        assert cases or refused
        for case in cases:
            for path in files_of(case):
                assert Path(os.path.normpath(path)).is_relative_to(root), path
            assert isinstance(case.patient_id, str)
            assert CASE_ID.match(case.id) or repr(case.id)[:140] in refused
        folded = [case.id.casefold() for case in cases]
        assert len(set(folded)) == len(folded) or any(p.reason == "duplicate_case_id" for p in problems)
        assert all(str(problem) for problem in problems)
