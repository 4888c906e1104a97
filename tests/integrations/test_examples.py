"""The examples of docs/interoperate run, and a stopped training goes on with the multipliers that it had."""

from __future__ import annotations

import ast
import re
import runpy
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers import REPOSITORY
from torch import Tensor, nn

from medcalib import calibrators, losses

EXAMPLES = REPOSITORY / "docs" / "interoperate"
Main = Callable[..., dict[str, Any]]


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    """Networks of this size only wait for a second one."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def main_of(name: str) -> Main:
    return runpy.run_path(str(EXAMPLES / f"{name}.py"))["main"]  # type: ignore[no-any-return]


def tensors(module: nn.Module | dict[str, Any]) -> dict[str, Tensor]:
    state = module.state_dict() if isinstance(module, nn.Module) else module
    return {name: value for name, value in state.items() if isinstance(value, Tensor)}


def assert_same(first: nn.Module | dict[str, Any], second: nn.Module | dict[str, Any]) -> None:
    first, second = tensors(first), tensors(second)
    assert first.keys() == second.keys()
    assert all(torch.equal(value, second[name]) for name, value in first.items())


def assert_complete(found: dict[str, Any], out: Path, epochs: int) -> None:
    """Multipliers stepped once an epoch, and a calibrator was fitted, saved and scored."""
    multipliers = found["objective"].terms["crac"].multipliers
    assert int(multipliers.updates) == epochs
    assert bool((multipliers.lam > multipliers.lam_min).all())
    assert 0 < found["after"] < 1
    assert found["before"] != found["after"]
    assert calibrators.load(out / "repair.safetensors").name == "region_temperature"


@pytest.mark.parametrize("driven_by", ["validation", "training"])
def test_plain_torch(tmp_path: Path, driven_by: str) -> None:
    main = main_of("plain_torch")
    whole = main(tmp_path / "whole", 2, driven_by)
    assert_complete(whole, tmp_path / "whole", 2)
    main(tmp_path / "parts", 1, driven_by)
    resumed = main(tmp_path / "parts", 2, driven_by)
    assert_same(whole["objective"], resumed["objective"])
    assert resumed["after"] == whole["after"]


def test_monai_engines(tmp_path: Path) -> None:
    pytest.importorskip("ignite", reason="needs pytorch-ignite")
    main = main_of("monai_ignite")
    whole = main(tmp_path / "whole", 2)
    assert_complete(whole, tmp_path / "whole", 2)
    main(tmp_path / "parts", 1)
    checkpoint = tmp_path / "parts" / "checkpoint_epoch=1.pt"
    saved = torch.load(checkpoint, weights_only=True)["objective"]
    assert int(saved["terms.crac.multipliers.updates"]) == 1, "validation must come before the checkpoint"
    resumed = main(tmp_path / "resumed", 2, checkpoint)
    assert resumed["epochs"] == 2
    assert_same(whole["objective"], resumed["objective"])


@pytest.mark.filterwarnings("ignore:parsing config_file")
def test_monai_bundle(tmp_path: Path) -> None:
    pytest.importorskip("ignite", reason="needs pytorch-ignite")
    from monai.bundle import ConfigWorkflow

    config = str(EXAMPLES / "monai_bundle.json")
    workflow = ConfigWorkflow(config, workflow_type="train", output_dir=str(tmp_path), epochs=2)
    workflow.initialize()
    workflow.run()
    parts = {name: workflow.parser.get_parsed_content(name) for name in ("objective", "evaluator", "loss", "repair")}
    saved = torch.load(tmp_path / "checkpoint_epoch=2.pt", weights_only=True)["objective"]
    assert int(saved["terms.crac.multipliers.updates"]) == 2
    assert_same(parts["objective"], saved)
    assert 0 < parts["evaluator"].state.metrics["ece"] < 1
    assert_same(calibrators.load(tmp_path / "repair.safetensors"), parts["repair"])
    ours = losses.build("crac", 3, margin=5)
    ours.load_state_dict(saved)
    logits, labels = torch.randn(1, 3, 6, 5, 4), torch.randint(0, 3, (1, 6, 5, 4))
    assert torch.equal(parts["loss"](logits, labels[:, None]), ours(logits, labels))


@pytest.mark.filterwarnings("ignore::UserWarning", "ignore::DeprecationWarning", "ignore::FutureWarning")
def test_lightning(tmp_path: Path) -> None:
    pytest.importorskip("lightning", reason="needs lightning")
    main = main_of("lightning_module")
    options = {"accelerator": "cpu", "enable_progress_bar": False, "enable_model_summary": False}
    whole = main(tmp_path / "whole", 2, **options)
    assert_complete(whole, tmp_path / "whole", 2)  # 2, not 3: the sanity check before training takes no step
    main(tmp_path / "parts", 1, **options)
    resumed = main(tmp_path / "parts", 2, **options)
    assert resumed["epochs"] == 2
    assert_same(whole["objective"], resumed["objective"])


def test_the_page_links_every_example_and_its_code_is_python() -> None:
    page = EXAMPLES.with_suffix(".md").read_text(encoding="utf-8")
    for block in re.findall(r"```python\n(.*?)```", page, re.DOTALL):
        ast.parse(block)
    linked = set(re.findall(r"\]\((interoperate/[^)]+)\)", page))
    files = [path for path in EXAMPLES.rglob("*") if path.suffix in (".py", ".json")]
    assert linked == {path.relative_to(EXAMPLES.parent).as_posix() for path in files}
