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
from medcalib.errors import DataRefusedError

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
