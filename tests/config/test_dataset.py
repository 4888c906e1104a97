"""From a config to cases and splits: training needs complete labels, prediction does not."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from medcalib.config import RunConfig
from medcalib.config.dataset import cases_and_split, only_ids, scan, split_of, with_root
from medcalib.config.references import references
from medcalib.data.case import Case
from medcalib.data.nifti import write_volume
from medcalib.data.phantom import write_dataset
from medcalib.errors import DataError, DataRefusedError

LABELS = {"background": (0,), "liver": (1,), "spleen": (2,)}


def config(data: dict[str, Any] | None = None, **changes: Any) -> RunConfig:
    base = {"layout": "acdc", "labels": LABELS}
    return RunConfig.model_validate(
        {"name": "trial", "data": base | (data or {}), "train": {"patch_size": (32, 32, 8)}} | changes
    )


def cases(number: int, **changes: Any) -> list[Case]:
    return [Case(f"c{k}", f"c{k}", (Path("x"),), changes.get("label", Path("y"))) for k in range(number)]


@pytest.fixture(scope="module")
def heart(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_dataset("acdc", 4, 0, tmp_path_factory.mktemp("heart") / "data", shape=(32, 32, 6))


def test_a_split_follows_the_config(heart: Path) -> None:
    chosen = with_root(config(split={"name": "kfold", "folds": 3, "test": "layout"}), str(heart))
    split = cases_and_split(chosen)
    assert {name: len(part) for name, part in split.items()} == {"train": 4, "val": 2, "test": 2}
    assert {c.patient_id for c in split["test"]} == {"patient004"}
    listed = {"name": "listed", "train": ("patient001",), "val": ("patient002_frame04",)}
    assert len(cases_and_split(with_root(config(split=listed), str(heart)))["train"]) == 2


@pytest.mark.fault(12)
@pytest.mark.parametrize(
    ("split", "reason", "words"),
    [
        ({"train": ("c0", "c1"), "val": ("c1_b",)}, "patient_leak", "patient c1 is in train and val; keep one"),
        ({"train": ("c0", "c1"), "val": ("c2",), "test": ("c1_b",)}, "patient_leak", "patient c1 is in test and train"),
        ({"train": ("c0",), "val": ()}, "empty_split", "no case is left for val; change `split` or add patients"),
        ({"train": (), "val": ("c0",)}, "empty_split", "no case is left for train"),
        ({"train": ("c0",), "val": ("c9",)}, "unknown_id", "c9: no such patient or case in the data"),
    ],
)
def test_a_patient_on_two_sides_and_an_empty_side_are_refused(split: dict[str, Any], reason: str, words: str) -> None:
    second = Case("c1_b", "c1", (Path("x"),), Path("y"))
    found = [*cases(3), second] if reason != "patient_leak" else [Case("c1_a", "c1", (Path("x"),), Path("y")), second]
    if reason == "patient_leak":
        found = [*cases(1), *found, cases(3)[2]]
        split = {name: tuple("c1_a" if case == "c1" else case for case in ids) for name, ids in split.items()}
    with pytest.raises(DataRefusedError) as caught:
        split_of(config(split={"name": "listed", **split}), found)
    assert [problem.reason for problem in caught.value.problems] == [reason]
    assert words in str(caught.value)


@pytest.mark.fault(12)
@pytest.mark.parametrize("test", [0.99, "layout"])
def test_a_share_that_leaves_no_case_to_train_on_is_refused(test: float | str) -> None:
    """A share of 1 is refused with the config (test_messages.py); 0 is a split without a test set."""
    found = [Case(f"c{k}", f"c{k}", (Path("x"),), Path("y"), "test") for k in range(4)]
    with pytest.raises(DataRefusedError) as caught:
        split_of(config(split={"name": "kfold", "test": test}), found)
    assert [problem.reason for problem in caught.value.problems] == ["empty_split", "empty_split"]
    none = split_of(config(split={"name": "kfold", "folds": 2, "test": 0.0}), found)
    assert {name: len(part) for name, part in none.items()} == {"train": 2, "val": 2, "test": 0}


@pytest.mark.fault(11)
def test_gaps_between_codes_are_closed_by_name_and_never_read_as_a_class() -> None:
    """As in BraTS 2017 to 2021, whose codes are 0, 1, 2 and 4."""
    label_map = config({"labels": {"background": (0,), "a": (1,), "b": (4,)}}).data.label_map
    assert label_map.encode(np.array([0, 4, 1]), "x").tolist() == [0, 2, 1]
    with pytest.raises(DataError, match=r"label code 2 \(1 voxels\) is not declared"):
        label_map.encode(np.array([0, 2]), "x")


def test_excluded_patients_are_gone(heart: Path) -> None:
    found, problems = scan(config({"exclude": ("patient001", "patient002_frame04")}).data, heart)
    assert problems == []
    assert "patient001" not in {c.patient_id for c in found}
    assert len(found) == 5


def test_a_missing_folder_is_refused_with_the_option_that_names_it() -> None:
    with pytest.raises(DataRefusedError, match="pass it with --data"):
        cases_and_split(with_root(config(), "/no/such/folder"))


def test_training_cases_need_a_label_and_test_cases_do_not() -> None:
    chosen = config(split={"name": "listed", "train": ("c0", "c1"), "val": ("c2",), "test": ("c3",)})
    unlabelled = Case("c3", "c3", (Path("x"),))
    assert len(split_of(chosen, [*cases(3), unlabelled])["test"]) == 1
    with pytest.raises(DataRefusedError) as caught:
        split_of(chosen, [*cases(2, label=None), *cases(4)[2:]])
    assert [(p.where, p.reason) for p in caught.value.problems] == [("c0", "no_label"), ("c1", "no_label")]
    assert "`data.exclude`" in str(caught.value)


def test_partially_labelled_cases_are_refused_for_training_only() -> None:
    partial = Case("c3", "c3", (Path("x"),), Path("y"), labelled_classes=("spleen",))
    complete = Case("c2", "c2", (Path("x"),), Path("y"), labelled_classes=("spleen", "liver"))
    lists = {"name": "listed", "train": ("c0",), "val": ("c2",), "test": ("c3",)}
    assert split_of(config(split=lists), [*cases(2), complete, partial])["test"] == [partial]
    with pytest.raises(DataRefusedError, match="c3: is in train, but liver was not annotated"):
        split_of(config(split=lists | {"train": ("c0", "c3"), "test": ()}), [*cases(2), complete, partial])


def test_the_cases_of_a_run_are_found_again_in_their_order() -> None:
    assert [c.id for c in only_ids(cases(4), ["c2", "c0"])] == ["c2", "c0"]
    with pytest.raises(DataRefusedError, match="c9: is in the run's split but not in the data folder"):
        only_ids(cases(4), ["c2", "c9"])


def test_references_come_from_a_config_or_a_flat_folder(heart: Path, tmp_path: Path) -> None:
    by_config = references(heart, config().data)
    assert by_config["patient001_frame01"].patient_id == "patient001"
    write_volume(tmp_path / "a.nii.gz", np.zeros((3, 4, 5), np.uint8), np.eye(4))
    assert list(references(tmp_path, None)) == ["a"]
    with pytest.raises(DataRefusedError, match="does not exist"):
        references(tmp_path / "absent", config().data)


def test_training_tells_the_warnings_of_the_folder_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    for name in (f"p{patient}_{phase}" for patient in range(6) for phase in ("ED", "ES")):
        for folder in ("images", "labels"):
            (tmp_path / folder).mkdir(exist_ok=True)
            (tmp_path / folder / f"{name}.nii.gz").write_bytes(b"")
    chosen = with_root(config({"layout": "files"}), str(tmp_path))
    cases_and_split(chosen)
    [record] = caplog.records
    assert record.getMessage().startswith("warning: patients: each of 12 cases counts as a patient of its own, but")
    caplog.clear()
    split = cases_and_split(with_root(config({"layout": {"name": "files", "patient": "(.+)_.*"}}), str(tmp_path)))
    assert caplog.records == []
    assert {name: len({c.patient_id for c in part}) for name, part in split.items()} == {
        "train": 4,
        "val": 1,
        "test": 1,
    }
