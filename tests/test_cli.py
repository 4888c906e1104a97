"""The command line as a user meets it: exit codes, messages, start-up, one story from phantom to report."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from helpers import REPOSITORY
from tiny import SHORTEST

from medcalib.config.bundled import bundled


def medcalib(*arguments: object, cwd: Path | None = None, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run the command in a process of its own."""
    env = {**os.environ, **environment}
    command = [sys.executable, "-m", "medcalib", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, cwd=cwd, env=env, timeout=300, check=False)


def sets(options: list[str]) -> list[str]:
    return [part for option in options for part in ("--set", option)]


def test_help_needs_no_heavy_import() -> None:
    """The start-up time itself is measured by a benchmark, not here."""
    code = (
        "import sys\nfrom typer.testing import CliRunner\nfrom medcalib.cli import app\n"
        "assert CliRunner().invoke(app, ['--help']).exit_code == 0\n"
        "print([m for m in ('torch', 'monai', 'numpy', 'matplotlib', 'pydantic', 'nibabel') if m in sys.modules])"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"


@pytest.mark.parametrize(
    "arguments",
    [["train", "nosuch", "--out", "x"], ["check", "nosuch.yaml"], ["train", "acdc", "--nosuch"], ["trian"]],
)
def test_slips_of_the_command_line_need_no_heavy_import(arguments: list[str]) -> None:
    code = (
        "import sys\nfrom typer.testing import CliRunner\nfrom medcalib.cli import app\n"
        f"assert CliRunner().invoke(app, {arguments!r}).exit_code == 2\n"
        "print([m for m in ('torch', 'monai', 'numpy', 'matplotlib', 'nibabel') if m in sys.modules])"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"


def test_help_lists_every_command() -> None:
    found = medcalib("--help")
    assert found.returncode == 0
    for name in ("demo", "phantom", "check", "train", "predict", "calibrate", "score", "merge", "maps", "report"):
        assert f"  {name} " in found.stdout
    for name in ("schema", "doctor", "datasets", "losses", "apply", "calibrators"):
        assert f"  {name} " in found.stdout


def test_imports_are_light() -> None:
    """The compiler of torch and scipy.stats take longer to import than all of medcalib."""
    code = (
        "import sys, medcalib; print('torch' in sys.modules)\n"
        "medcalib.losses, medcalib.metrics, medcalib.calibrators, medcalib.data, medcalib.ops\n"
        "print([m for m in ('monai', 'torch._dynamo', 'scipy.stats', 'matplotlib') if m in sys.modules])"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.split() == ["False", "[]"]


@pytest.fixture(scope="module")
def story(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """phantom -> check -> train -> predict -> score -> maps -> report, each as a user would call it."""
    folder = tmp_path_factory.mktemp("story")
    data, run = folder / "data", folder / "run"
    steps = {
        "phantom": medcalib("phantom", "--layout", "acdc", "--cases", 4, "--seed", 3, "--out", data),
        "check": medcalib("check", "phantom", "--data", data, "--json", *sets(SHORTEST)),
        "train": medcalib("train", "phantom", "--data", data, "--loss", "mbls", "--out", run, *sets(SHORTEST)),
        "predict": medcalib("predict", run, "--out", folder / "pred"),
    }
    pair = ["--predictions", folder / "pred", "--labels", data, "--config", "phantom"]
    steps |= {
        "score": medcalib("score", *pair, "--out", folder / "scores"),
        "maps": medcalib("maps", *pair, "--out", folder / "maps"),
        "report": medcalib(
            "report", folder / "scores", "--maps", folder / "maps", "--out", folder / "report.html",
            "--config", "phantom", "--data", data,
        ),
    }  # fmt: skip
    return {"folder": folder, "steps": steps}


def test_every_step_ends_well(story: dict[str, Any]) -> None:
    for name, step in story["steps"].items():
        assert step.returncode == 0, (name, step.stderr)


def test_what_the_steps_print(story: dict[str, Any]) -> None:
    steps = story["steps"]
    facts = json.loads(steps["check"].stdout)
    assert (facts["cases"], facts["patients"]) == (8, 4)
    assert facts["split"] == {"train": 4, "val": 2, "test": 2}
    assert "scored 2 of 2 cases" in steps["score"].stdout
    assert "true ECE" in steps["score"].stdout
    assert (story["folder"] / "report.html").stat().st_size > 20_000


def test_scores_json_keeps_the_contract(story: dict[str, Any]) -> None:
    scores = json.loads((story["folder"] / "scores" / "scores.json").read_text())
    assert {"n_expected", "n_scored", "refused", "settings", "pooled", "mean", "cases"} <= scores.keys()
    assert {"bins", "edges", "regions"} <= scores["settings"].keys()
    wanted = {"ece", "classwise_ece", "ace_bins", "mce", "ece_equal_mass", "brier", "nll", "voxels"}
    for region in ("all", "foreground", "gt_foreground"):
        assert wanted <= scores["pooled"][region].keys()
        assert {"value", "low", "high"} <= scores["mean"][region]["ece"].keys()
    case = next(iter(scores["cases"].values()))
    assert set(case["dice"]) == set(case["hd95_mm"]) == {"RV", "MYO", "LV"}
    assert wanted <= case["regions"]["all"].keys()


@pytest.mark.fault(1)
def test_a_bad_config_ends_with_2_and_every_mistake(tmp_path: Path) -> None:
    bad = tmp_path / "bad.yaml"
    bad.write_text(bundled()["phantom"].read_text().replace("lr: 3e-3", "lr: fast").replace("loss: ce", "loss: cee"))
    found = medcalib("check", bad)
    assert found.returncode == 2
    assert "train.lr: expected a number, got text 'fast'" in found.stderr
    assert "loss: unknown name 'cee'; did you mean 'ce'?" in found.stderr
    assert "Traceback" not in found.stderr


@pytest.mark.fault(13, 15)
@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["train"], 2, "Missing argument"),
        (["trian"], 2, "No such command 'trian'; did you mean 'train'?"),
        (["frobnicate"], 2, "No such command 'frobnicate'; known: demo, phantom, check, train, "),
        (["bench", "lossse"], 2, "No such command 'lossse'; did you mean 'losses'?"),
        (["losses", "nonexist"], 2, "unknown loss 'nonexist'; known: ce, dice, "),
        (["calibrators", "nonexist"], 2, "'nonexist' is no calibrator and no file; known: temperature, "),
        (["check", "nowhere.yaml"], 2, "nowhere.yaml: cannot be read"),
        (["check", "acdc", "--data", "/nowhere"], 3, "the data folder does not exist"),
        (["check", "acdc", "--set", "train.lr"], 2, "expected key=value"),
        (["train", "acdc", "--out", "x", "--loss", "mblss"], 2, "did you mean 'mbls'?"),
        (["predict", "/nowhere", "--out", "x"], 2, "is no run folder"),
        (["score", "--predictions", "/nowhere", "--labels", ".", "--out", "x"], 3, "/nowhere"),
        (["report", "/nowhere", "--out", "x.html"], 3, "/nowhere"),
        (["phantom", "--layout", "acdc", "--out", "x", "--anatomy", "liver"], 2, "liver"),
        (["predict", "/nowhere", "--out", "x", "--device", "gpu"], 2, "is no run folder"),
        (
            ["maps", "--predictions", ".", "--labels", ".", "--out", "x", "--window-mm", "-1"],
            2,
            "window_mm must be positive",
        ),
        (
            ["score", "--predictions", ".", "--labels", ".", "--out", "x", "--set", "score.bins=20"],
            2,
            "name it with --config",
        ),
        (["schema", "--out", "/proc/nowhere/schema.json"], 2, "/proc/nowhere"),
    ],
)
def test_mistakes_end_with_a_code_and_one_clear_text(
    arguments: list[str], code: int, words: str, tmp_path: Path
) -> None:
    found = medcalib(*arguments, cwd=tmp_path)
    assert found.returncode == code, found.stderr
    assert words in found.stderr
    assert "Traceback" not in found.stderr


def test_an_existing_phantom_is_not_written_over(story: dict[str, Any]) -> None:
    found = medcalib("phantom", "--layout", "acdc", "--cases", 4, "--out", story["folder"] / "data")
    assert found.returncode == 2
    assert "Traceback" not in found.stderr


@pytest.mark.parametrize("command", ["losses", "datasets", "doctor", "schema"])
def test_facts_come_as_json(command: str) -> None:
    found = medcalib(command, *([] if command == "schema" else ["--json"]))
    assert found.returncode == 0
    assert json.loads(found.stdout)


def test_losses_tells_equation_defaults_and_what_to_cite() -> None:
    found = medcalib("losses", "crac", "mbls")
    assert found.stdout.startswith("mbls            CE + w mean_k relu(max_j z_j - z_k - margin)^power\n")
    assert "granularity=class_region" in found.stdout
    assert "Murugesan et al. 2024, arXiv 2403.12364" in found.stdout
    bibtex = medcalib("losses", "mbls", "--bibtex").stdout
    assert bibtex.count("@") == 2
    assert "eprint = {2209.09641}" in bibtex
    wrong = medcalib("losses", "mbsl")
    assert wrong.returncode == 2
    assert wrong.stderr == "error: unknown loss 'mbsl'; did you mean 'mbls'?\n"


@pytest.mark.fault(75)
def test_other_locales_narrow_terminals_and_closed_pipes(tmp_path: Path) -> None:
    for environment in ({"LC_ALL": "C", "PYTHONIOENCODING": "ascii"}, {"COLUMNS": "20"}):
        assert medcalib("losses", **environment).returncode == 0
    pipe = f"{sys.executable} -m medcalib schema | head -c 10"
    found = subprocess.run(["bash", "-c", pipe], capture_output=True, text=True, check=False)
    assert "Traceback" not in found.stderr


def test_the_committed_schema_is_the_code_s() -> None:
    from medcalib.config import json_schema

    stored = json.loads((bundled()["acdc"].parent / "medcalib.schema.json").read_text())
    assert stored == json_schema(), "run `make schema`"


def test_losses_say_what_a_study_found_of_their_defaults(capsys: pytest.CaptureFixture[str]) -> None:
    from medcalib.losses import RECIPES

    noted = [name for name, recipe in RECIPES.items() if recipe.note]
    assert noted == ["acls", "mbls", "cals_alm", "nacl", "crac"]
    rows = (REPOSITORY / "docs/results/methods.md").read_text("utf-8").split("## Defaults")[1].split("## The search")[0]
    assert all(f"`{name}`" in rows for name in noted)
