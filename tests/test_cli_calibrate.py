"""`medcalib calibrate`, `apply` and `calibrators` as a user meets them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from flat import write_flat
from typer.testing import CliRunner

from medcalib import calibrators
from medcalib.cli import app
from medcalib.cli_calibrate import _advice


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`predictions` and `labels`, one of them damaged, one missing."""
    folder = tmp_path_factory.mktemp("flat")
    write_flat(folder, 6)
    return folder


def pair(folder: Path) -> list[object]:
    return ["calibrate", "--predictions", folder / "predictions", "--labels", folder / "labels"]


def run(*arguments: object) -> tuple[int, str, str]:
    """Exit code, standard output, standard error."""
    found = CliRunner().invoke(app, [str(argument) for argument in arguments])
    return found.exit_code, found.stdout, found.stderr


def test_fit_look_and_apply(folder: Path, tmp_path: Path) -> None:
    file = tmp_path / "t.safetensors"
    code, text, errors = run(*pair(folder), "--folds", 2, "--seed", 1, "--out", file)
    assert code == 4
    assert "refused case_2: " in errors
    assert text.startswith("Temperature(temperature=")
    assert "voxels of 4 cases, region all" in text
    assert "before    after  held_out" in " ".join(text.split("\n")[2:4]).replace("  before", "  before")
    assert text.endswith(f"wrote {file}\n")
    code, text, _ = run("calibrators", file, "--json")
    (content,) = json.loads(text)
    assert code == 0
    assert content["formula"] == "softmax(z / T)"
    assert content["temperature"] > 0
    assert content["cases"] == ["case_0", "case_1", "case_3", "case_4"]
    code, text, _ = run("apply", file, "--predictions", folder / "predictions", "--out", tmp_path / "out")
    assert code == 4
    assert "repaired 4 of 5 cases" in text


def test_options_are_json_or_words(folder: Path, tmp_path: Path) -> None:
    options = ["--method", "focal_temperature", "--option", "gamma=0.5", "--option", "search=grid"]
    code, text, _ = run(*pair(folder), *options, "--voxels", 200, "--out", tmp_path / "c", "--json")
    found = json.loads(text)
    assert code == 4
    assert (found["gamma"], found["search"], found["voxels_per_case"]) == (0.5, "grid", 200)
    assert found["refused"][0]["case"] == "case_2"


def test_every_method_is_listed_with_formula_and_source() -> None:
    code, text, _ = run("calibrators")
    assert code == 0
    for name in calibrators.names():
        assert f"\n{name}\n" in f"\n{text}"
    assert text.count("formula: ") == text.count("source: ") == len(calibrators.names())


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["calibrate", "--out", "c"], "name a RUN, or --predictions with --labels"),
        (["calibrate", "run", "--predictions", "p", "--out", "c"], "name a RUN, or --predictions with --labels"),
        (["calibrate", "--predictions", "p", "--out", "c"], "--predictions needs --labels"),
        (["calibrate", "run", "--labels", "l", "--out", "c"], "labels: only for --predictions"),
        (["calibrate", "nowhere", "--out", "c"], "nowhere is no run folder"),
        (["calibrate", "run", "--option", "gamma", "--out", "c"], "expected KEY=VALUE, each key once"),
        (["calibrate", "run", "--region", "edge", "--out", "c"], "unknown region 'edge'"),
        (["calibrators", "temprature"], "did you mean 'temperature'?"),
        (["apply", "nowhere", "--predictions", "p", "--out", "o"], "nowhere is no saved calibrator"),
    ],
)
def test_mistakes_end_with_2_and_say_what_to_do(arguments: list[str], words: str) -> None:
    code, _, errors = run(*arguments)
    assert code == 2
    assert words in errors


@pytest.mark.parametrize(
    ("region", "method", "proposed", "not_proposed"),
    [
        ("all", "temperature", ["--region pred_foreground", "region_temperature or classwise_temperature"], []),
        ("all", "classwise_temperature", ["--region pred_foreground", "region_temperature"], ["classwise"]),
        ("boundary", "region_temperature", ["over boundary", "classwise_temperature"], ["region_temperature"]),
        ("pred_foreground", "temperature", ["lowers the NLL"], ["--region"]),
    ],
)
def test_a_fit_that_makes_the_foreground_worse_is_told_what_else_to_try(
    region: str, method: str, proposed: list[str], not_proposed: list[str]
) -> None:
    facts = {"region": region, "before": {"ece_pred_foreground": 0.1}, "after": {"ece_pred_foreground": 0.2}}
    text = _advice(facts, method)[-1]
    assert text.startswith("the ECE of the predicted foreground became worse")
    assert all(words in text for words in proposed)
    assert not any(words in text for words in not_proposed)
    assert "worse" not in " ".join(_advice({**facts, "held_out": {"ece_pred_foreground": 0.05}}, method))
