"""The shipped configs are found by name, and a path stays a path."""

from __future__ import annotations

from pathlib import Path

import pytest

from medcalib.config import load
from medcalib.config.bundled import bundled, resolve
from medcalib.config.dataset import scan
from medcalib.config.listing import list_datasets, list_losses
from medcalib.data.labels import CONVENTIONS
from medcalib.data.layouts import LAYOUTS
from medcalib.losses import RECIPES


def test_a_bare_name_is_a_shipped_config_and_a_path_stays_a_path(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert resolve("acdc").name == "acdc.yaml"
    assert resolve("acdc").is_file()
    assert resolve("mine.yaml") == Path("mine.yaml")
    Path("acdc").touch()
    assert resolve("acdc") == Path("acdc")


def test_shipped_configs_name_no_folder_of_anybody() -> None:
    assert len(bundled()) >= 6
    assert {load(path).data.root for path in bundled().values()} == {None}


@pytest.mark.parametrize("name", bundled())
def test_a_shipped_config_covers_its_convention(name: str) -> None:
    data = load(bundled()[name]).data
    if data.convention is None:
        assert data.layout.name not in ("brats", "acdc", "flare")
    else:
        assert {code for codes in data.labels.values() for code in codes} == {0, *CONVENTIONS[data.convention].values()}


@pytest.mark.parametrize(
    ("name", "folder", "cases"),
    [("acdc", "acdc", 24), ("msd_hippocampus", "msd_hippocampus", 208), ("flare22", "abdomen_ct_auto", 1)],
)
def test_a_shipped_config_finds_the_real_cases(real: Path, name: str, folder: str, cases: int) -> None:
    found, problems = scan(load(bundled()[name]).data, real / folder)
    assert len(found) == cases
    assert not [problem for problem in problems if problem.level == "error"]


def test_lists_name_every_config_layout_and_loss() -> None:
    datasets = list_datasets()
    assert [entry["name"] for entry in datasets["configs"]] == list(bundled())
    assert [entry["name"] for entry in datasets["layouts"]] == list(LAYOUTS)
    assert all(entry["about"] for entry in datasets["layouts"])
    losses = {entry["name"]: entry for entry in list_losses()}
    assert list(losses) == list(RECIPES)
    assert losses["mbls"]["defaults"]["margin"] == load(bundled()["acdc"], loss="mbls").loss.margin
