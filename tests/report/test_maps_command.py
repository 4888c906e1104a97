"""`medcalib maps` as a user meets it."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from helpers import LPS, REPOSITORY, smooth_case
from maps_cases import read_map, write_case
from typer.testing import CliRunner

from medcalib.cli import app
from medcalib.report.maps import KINDS


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("flat")
    for k in range(2):
        probs, label = smooth_case(k, 4, (9, 10, 7))
        write_case(folder, f"c{k}", probs.numpy(), label.numpy())
    return folder


def run(folder: Path, out: Path, *options: object) -> tuple[int, str, str]:
    """Exit code, standard output, standard error."""
    pair = ["maps", "--predictions", folder / "pred", "--labels", folder / "labels", "--out", out]
    found = CliRunner().invoke(app, [str(argument) for argument in (*pair, *options)])
    return found.exit_code, found.stdout, found.stderr


def test_options_reach_the_maps(folder: Path, tmp_path: Path) -> None:
    code, text, _ = run(
        folder, tmp_path, "--window", "3,3,1", "--maps", "gap, error", "--classes", "LV,MYO", "--cohort", "--json"
    )
    index = json.loads(text)
    assert code == 0
    assert index == json.loads((tmp_path / "maps.json").read_text())
    assert index["window_voxels"] == [3, 3, 1]
    assert set(index["written"]["c0"]["files"]) == {
        "error", "gap", "LV_probability", "LV_gap", "MYO_probability", "MYO_gap"
    }  # fmt: skip
    assert (tmp_path / "cohort_gap.nii.gz").is_file()


def test_one_window_number_is_for_all_axes_and_nothing_is_9_mm(folder: Path, tmp_path: Path) -> None:
    for options, voxels in ((("--window", 5), [5, 5, 5]), ((), [5, 5, 1]), (("--window-mm", 1), [1, 1, 1])):
        index = json.loads(run(folder, tmp_path, *options, "--maps", "all", "--json")[1])
        assert index["written"]["c0"]["window_voxels"] == voxels
        assert set(index["maps"]) == set(KINDS) - {"true_gap"}
    confidence, error = (read_map(tmp_path, "c0", name) for name in ("confidence", "error"))
    np.testing.assert_allclose(read_map(tmp_path, "c0", "gap"), confidence - (1.0 - error), atol=1e-6)


@pytest.mark.parametrize(
    ("options", "code", "words"),
    [
        (["--window", "4"], 2, "one odd number of voxels"),
        (["--window", "wide"], 2, "--window wide: expected"),
        (["--window", "5", "--window-mm", "9"], 2, "not both"),
        (["--window-mm", "-1"], 2, "window_mm must be positive"),
        (["--maps", "gap,errors"], 2, "did you mean 'error'?"),
        (["--classes", "LA"], 2, "unknown class 'LA'"),
    ],
)
def test_mistakes_end_with_2_and_one_text(
    folder: Path, tmp_path: Path, options: list[str], code: int, words: str
) -> None:
    found = run(folder, tmp_path / "maps", *options)
    assert found[0] == code
    assert words in found[2]
    assert not (tmp_path / "maps").exists()


def test_cases_on_two_grids_have_no_cohort(folder: Path, tmp_path: Path) -> None:
    for k in range(2):
        probs, label = smooth_case(k, 4, (9, 10, 7 + k))
        write_case(tmp_path, f"c{k}", probs.numpy(), label.numpy(), affine=LPS)
    found = run(tmp_path, tmp_path / "maps", "--cohort")
    assert found[0] == 3
    assert found[2].startswith("error: c1 lies on another grid")
    assert run(tmp_path, tmp_path / "maps")[0] == 0


def test_a_refused_case_ends_with_4(folder: Path, tmp_path: Path) -> None:
    for k in range(2):
        probs, label = smooth_case(k, 4, (9, 10, 7))
        write_case(tmp_path, f"c{k}", probs.numpy(), label.numpy())
    (tmp_path / "pred" / "c1.nii.gz").unlink()
    code, text, errors = run(tmp_path, tmp_path / "maps")
    assert (code, text) == (4, f"maps of 1 cases: {tmp_path / 'maps'}\n")
    assert errors.startswith("refused c1: no prediction c1.nii.gz")


def test_help_and_docs_name_every_map() -> None:
    text = CliRunner().invoke(app, ["maps", "--help"]).stdout
    page = (REPOSITORY / "docs" / "maps.md").read_text(encoding="utf-8")
    for name in KINDS:
        assert name in text
        assert f"`{name}`" in page
