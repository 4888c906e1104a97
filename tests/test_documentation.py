"""Every block of README.md and docs/ runs here, or a comment before it says why it does not."""

from __future__ import annotations

import json
import re
import shlex
import shutil
from math import exp
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from documented import PAGES, blocks, commands, run_command, to_run
from helpers import LPS, REPOSITORY, smooth_case

from medcalib.config import load
from medcalib.data.case import Case
from medcalib.data.labels import LabelMap
from medcalib.data.nifti import write_volume
from medcalib.data.phantom import write_dataset
from medcalib.data.predictions import write_prediction
from medcalib.errors import ConfigError
from medcalib.metrics import CalibrationCounts

LANGUAGES = {"bash", "sh", "python", "yaml", "text", "js"}
# they train; tests/test_cli.py tells the story of the README in the fast part
TRAINING = {f"docs/{page}.md" for page in ("getting_started", "repair", "maps", "compare", "margin")} | {"README.md"}


def name(path: Path) -> str:
    return path.relative_to(REPOSITORY).as_posix()


def with_blocks(language: str, slow: set[str]) -> list[Any]:
    """A parameter a page that has such blocks to run."""
    return [
        pytest.param(path, id=name(path), marks=[pytest.mark.slow] if name(path) in slow else [])
        for path in PAGES
        if to_run(path, language)
    ]


@pytest.mark.parametrize("path", PAGES, ids=map(name, PAGES))
def test_every_block_says_what_it_is(path: Path) -> None:
    for block in blocks(path):
        assert block.language in LANGUAGES, f"{block}: name one of {', '.join(sorted(LANGUAGES))} after ```"
        if block.language in ("sh", "js"):
            assert block.excused, f"{block}: nothing runs {block.language} here; say so: <!-- not run: REASON -->"
        if block.language == "text":  # output, not a way around the test
            assert not re.search(r"^\s*(medcalib|pip|docker|torchrun|make) ", block.text, re.MULTILINE), str(block)


@pytest.mark.parametrize("path", PAGES, ids=map(name, PAGES))
def test_a_reason_names_tests_that_exist(path: Path) -> None:
    for reason in re.findall(r"<!-- not run.*?-->", path.read_text("utf-8")):
        for file in re.findall(r"(?:tests|docker)/[\w/]+\.\w+", reason):
            assert (REPOSITORY / file).is_file(), f"{name(path)}: {reason}"


# --- commands ---------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Data sets, predictions of other tools and a finished training, under the names that the pages give them."""
    folder = tmp_path_factory.mktemp("documented")
    for name_, layout, options in (
        ("ACDC", "acdc", {"shape": (40, 40, 8)}),
        ("BRATS", "brats", {"shape": (24, 24, 16)}),
        ("FLARE", "flare", {"shape": (32, 24, 16)}),
        ("MSD", "msd", {"anatomy": "hippocampus", "shape": (24, 32, 24)}),
        ("NNUNET", "nnunet", {"anatomy": "tumor", "shape": (24, 24, 16)}),
    ):
        made = write_dataset(layout, 10, 1, folder / "made" / name_, **options)  # type: ignore[arg-type]
        final = {"MSD": "Task04_Hippocampus", "NNUNET": "nnUNet_raw/Dataset001_Tumor"}.get(name_, name_)
        (folder / final).parent.mkdir(exist_ok=True)
        made.rename(folder / final)
    (folder / "my_data.yaml").write_text(of_nnunet((REPOSITORY / "configs/msd_hippocampus.yaml").read_text("utf-8")))
    classes = ("background", "liver", "tumor")  # of scoring, repair and interoperate
    flat_cases(folder, ("val_output", "fold_0/validation"), "labelsVal", range(4), classes)
    flat_cases(folder, ("test_output", "nnunet_output", "testOutput"), "labelsTs", range(4, 8), classes)
    return folder


def of_nnunet(config: str) -> str:
    """The shipped config, changed as docs/data.md says."""
    description = "layout: nnunet\n  labels: {background: 0, edema: 1, core: 2, enhancing: 3}"
    return re.sub(r"layout: msd\n +labels: .*", description, config).replace("name: msd_hippo", "name: my_", 1)


def flat_cases(folder: Path, places: tuple[str, ...], labels: str, seeds: range, classes: tuple[str, ...]) -> None:
    """Labels in one flat folder, predictions in some."""
    label_map = LabelMap.consecutive(classes)
    for seed in seeds:
        probs, label = smooth_case(seed, len(classes), (14, 12, 6))
        case = Case(f"case_{seed}", f"case_{seed}", ())
        write_volume(folder / labels / f"{case.id}.nii.gz", label.numpy(), LPS)
        for place in places:
            write_prediction(folder / place, case, probs.numpy(), LPS, label_map, {})


@pytest.fixture(scope="module")
def trained(world: Path) -> Path:
    """A run of the phantom config and its predictions, for pages that begin after training."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(world)
        run_command(shlex.split("medcalib train phantom --data ACDC --loss ce --out trained"), "fixture")
        run_command(shlex.split("medcalib predict trained --out predicted"), "fixture")
    return world


def enter(page: Path, request: pytest.FixtureRequest, patch: pytest.MonkeyPatch) -> None:
    """Go to a folder that has what the page takes for granted; data are links, what commands write is not."""
    folder: Path = request.getfixturevalue("tmp_path")
    world: Path = request.getfixturevalue("trained" if name(page) in TRAINING else "world")
    patch.chdir(folder)
    for entry in world.iterdir():
        (folder / entry.name).symlink_to(entry)
    text = page.read_text("utf-8")
    if "medcalib calibrate runs/ce" in text and "medcalib train" not in text:
        shutil.copytree(world / "trained", folder / "runs/ce")
    (folder / "secret.key").write_text("0123456789abcdef")
    if "--labels DATASET" in text:
        (folder / "PRED").symlink_to(world / "predicted")
        (folder / "DATASET").symlink_to(world / "ACDC")
        (folder / "LABELS").mkdir()
        for file in (world / "ACDC").rglob("*_gt.nii.gz"):
            predicted = world / "predicted" / file.name.replace("_gt", "")
            if predicted.exists():
                (folder / "LABELS" / predicted.name).symlink_to(file)


@pytest.mark.parametrize("path", with_blocks("bash", TRAINING))
def test_commands(path: Path, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    enter(path, request, monkeypatch)
    for block in to_run(path, "bash"):
        for words in commands(block):
            run_command(words, block)


# --- Python -----------------------------------------------------------------------------------------------------------


def namespace(path: Path) -> dict[str, Any]:
    """What the pages speak of: tensors of 4 classes (interoperate: 3); the README makes its own."""
    if path.stem == "README":
        return {}
    classes = 3 if path.stem == "interoperate" else 4
    made = [smooth_case(seed, classes, (8, 8, 6)) for seed in range(2)]
    probs, labels = (torch.stack(parts) for parts in zip(*made, strict=True))
    logits = probs.log()
    found = {"probs": probs, "labels": labels.long(), "logits": logits.clone().requires_grad_()}
    return found | {"val_logits": logits * 1.5, "val_labels": labels.long()}


def two_scores(folder: Path) -> dict[str, Any]:
    """`first` and `second` of the page about scoring: scores of four cases, and `more` counts."""
    flat_cases(folder, ("predictions",), "labels", range(4), ("background", "RV", "MYO", "LV"))
    words = f"medcalib score --predictions {folder}/predictions --labels {folder}/labels --out {folder}/scores"
    run_command(shlex.split(words), "fixture")
    scores = json.loads((folder / "scores/scores.json").read_text("utf-8"))
    probs, labels = smooth_case(7, 4, (8, 8, 6))
    more = CalibrationCounts.from_probs(probs[None], labels[None].long())
    return {"more": more, "first": scores, "second": scores}


def a_training(request: pytest.FixtureRequest, folder: Path) -> dict[str, Any]:
    """`config` and `out` of the page about followers."""
    world: Path = request.getfixturevalue("trained")
    return {"config": load(world / "trained/config.yaml", data=str(world / "ACDC")), "out": folder / "run"}


@pytest.mark.parametrize("path", with_blocks("python", {"docs/follow.md"}))
def test_python(path: Path, request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for library in ("torchmetrics", "ignite", "matplotlib"):
        pytest.importorskip(library)
    names = namespace(path)
    names |= two_scores(tmp_path) if path.stem == "scoring" else {}
    names |= a_training(request, tmp_path) if path.stem == "follow" else {}
    monkeypatch.chdir(tmp_path)
    for block in to_run(path, "python"):
        exec(compile("\n" * block.line + block.text, block.page, "exec"), names)  # noqa: S102 - our own pages


# --- what pages show --------------------------------------------------------------------------------------------------


def shown(path: str, language: str) -> list[str]:
    return [block.text for block in blocks(REPOSITORY / path) if block.language == language]


def test_the_config_of_the_page_is_one(tmp_path: Path) -> None:
    file = tmp_path / "my.yaml"
    file.write_text(shown("docs/configs.md", "yaml")[0])
    assert load(file).name == "my_data"


@pytest.mark.parametrize(("which", "right", "wrong"), [(0, "margin:", "margn:"), (1, "[96, 96, 48]", "[90, 96, 48]")])
def test_the_mistakes_of_the_page_are_told_so(
    which: int, right: str, wrong: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("my.yaml").write_text(shown("docs/configs.md", "yaml")[0].replace(right, wrong))
    with pytest.raises(ConfigError) as told:
        load(Path("my.yaml"))
    assert str(told.value).strip() == shown("docs/configs.md", "text")[which].strip()


def test_the_table_of_margins_is_what_the_formula_gives() -> None:
    text = (REPOSITORY / "docs/margin.md").read_text("utf-8")
    rows = re.findall(r"^\| (\d+) \| (0\.\d+) \| (0\.\d+) \| (0\.\d+) \|$", text, re.MULTILINE)
    assert len(rows) == 7
    for margin, *shown in rows:
        found = [exp(int(margin)) / (exp(int(margin)) + classes - 1) for classes in (3, 4, 14)]
        assert np.allclose(found, [float(value) for value in shown], atol=5e-5)


def test_every_link_leads_somewhere() -> None:
    for path in PAGES:
        prose = re.sub(r"```.*?```|`[^`\n]*`", "", path.read_text("utf-8"), flags=re.DOTALL)
        for target in re.findall(r"\]\((?!\w+:|#)([^)\s#]+)", prose):
            generated = (REPOSITORY / "docs/reference") in (path.parent / target).resolve().parents
            waiting = target.endswith("reliability.md")  # written by `make reliability`
            assert generated or waiting or (path.parent / target).exists(), f"{name(path)}: {target}"
