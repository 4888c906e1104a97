"""The plan of a comparison: what a call asks for, judged at once; what may be added and what is refused."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from tiny import changed

from medcalib.config import RunConfig
from medcalib.engine.compare.folder import CellId
from medcalib.engine.compare.methods import read_methods
from medcalib.engine.compare.plan import read_plan
from medcalib.engine.compare.planning import Request, devices_of, planned
from medcalib.errors import ConfigError, DataError, DataRefusedError


def begun(tiny: RunConfig, out: Path, **asked: object) -> None:
    planned(tiny, Request(**asked), out).write(out)


def test_methods_have_complete_options_and_sweeps_the_order_of_values(tiny: RunConfig) -> None:
    found = read_methods(tiny, ["ce", "mbls"], ["m5={name: mbls, margin: 5}", "f=focal"], ["m5.margin=10,2.5,5"])
    assert found.problems == []
    assert list(found.options) == ["ce", "mbls", "m5", "f", "m5-margin=10", "m5-margin=2.5", "m5-margin=5"]
    assert found.options["m5-margin=10"] == {**found.options["m5"], "margin": 10}
    assert found.options["mbls"] == {**found.options["m5"], "margin": 10}  # the default of mbls
    assert found.sweeps == {"m5.margin": ["m5-margin=2.5", "m5-margin=5", "m5-margin=10"]}


def test_a_loss_of_the_config_keeps_its_options(tiny: RunConfig) -> None:
    base = planned(tiny, Request(methods=["a={name: mbls, margin: 3}"]), Path("nowhere")).config_of(
        CellId("a", 7), "cpu", None
    )
    assert (base.loss.margin, base.train.seed, base.train.device) == (3, 7, "cpu")
    assert read_methods(base, ["mbls"]).options["mbls"]["margin"] == 3
    assert read_methods(tiny, ["mbls"]).options["mbls"]["margin"] == 10


def test_every_mistake_is_told_at_once(tiny: RunConfig, tmp_path: Path) -> None:
    request = Request(
        losses=["ce", "ce", "mbsl"],
        methods=["../x=ce", "a={name: mbls, margn: 5}", "b", "CE={name: focal}"],
        sweeps=["mbls.margin=", "mbls.weight=-1"],
        calibrators=["temprature", "vector", "vector"],
        seeds=[1, 1, 2**32],
    )
    with pytest.raises(ConfigError) as caught:
        planned(tiny, request, tmp_path / "out")
    told = str(caught.value)
    for part in (
        "--losses ce: the label ce is there already",
        "did you mean 'mbls'?",
        "--method ../x: the label '../x' cannot be a folder",
        "did you mean 'margin'?",
        "--method b: expected LABEL=",
        "--method CE: the label CE is there already",
        "--sweep mbls.margin=: expected METHOD.OPTION=",
        "did you mean 'temperature'?",
        "--calibrators: vector is named twice",
        "--seeds: 1 is named twice",
        "--seeds 4294967296: expected 0",
    ):
        assert part in told
    assert "weight" in told
    assert not (tmp_path / "out").exists()


def test_the_file_is_complete_and_read_back(tiny: RunConfig, tmp_path: Path) -> None:
    begun(tiny, tmp_path, losses=["ce", "mbls"], seeds=[3, 4], calibrators=["temperature"], weights="last")
    found = json.loads((tmp_path / "compare.json").read_text())
    assert list(found) == [
        "version", "config", "methods", "sweeps", "seeds", "calibrators", "split", "weights", "reference"
    ]  # fmt: skip
    assert (found["version"], found["split"], found["weights"], found["reference"]) == (1, "test", "last", "ce")
    assert "loss" not in found["config"]
    assert not {"seed", "device"} & set(found["config"]["train"])
    plan = read_plan(tmp_path)
    assert plan.cells() == [("ce", 3), ("mbls", 3), ("ce", 4), ("mbls", 4)]
    assert plan.config_of(CellId("ce", 3), "cpu", None) == changed(tiny, seed=3, device="cpu")


def test_calls_that_add_extend_the_plan(tiny: RunConfig, tmp_path: Path) -> None:
    begun(tiny, tmp_path, losses=["ce"], sweeps=["mbls.margin=5"], split="val")
    begun(tiny, tmp_path, losses=["focal"], sweeps=["mbls.margin=1"], seeds=[2], calibrators=["vector"])
    plan = read_plan(tmp_path)
    assert list(plan.methods) == ["ce", "mbls-margin=5", "focal", "mbls-margin=1"]
    assert plan.sweeps == {"mbls.margin": ["mbls-margin=1", "mbls-margin=5"]}
    assert (plan.seeds, plan.calibrators, plan.split, plan.reference) == ([0, 2], ["vector"], "val", "ce")
    begun(tiny, tmp_path)  # nothing named: what is there
    assert read_plan(tmp_path) == plan


def test_what_differs_is_refused_and_named(tiny: RunConfig, tmp_path: Path) -> None:
    begun(tiny, tmp_path, methods=["m={name: mbls, margin: 5}"])
    before = (tmp_path / "compare.json").read_bytes()
    other = changed(tiny, lr=0.5)
    with pytest.raises(ConfigError) as caught:
        planned(other, Request(methods=["m={name: mbls, margin: 6}"], split="val", weights="last"), tmp_path)
    told = str(caught.value)
    assert "config train.lr: the comparison has 0.003, now 0.5" in told
    assert "method m: margin: the comparison has 5" in told
    assert "--split: the comparison has 'test', now 'val'" in told
    assert "--weights: the comparison has 'best', now 'last'" in told
    assert (tmp_path / "compare.json").read_bytes() == before
    faster = changed(tiny, workers=1)  # changes no result
    assert planned(faster, Request(), tmp_path).config["train"]["workers"] == 1


def test_folders_of_something_else_and_broken_plans_are_refused(tiny: RunConfig, tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("")
    with pytest.raises(ConfigError, match="holds files and no compare.json"):
        planned(tiny, Request(losses=["ce"]), tmp_path)
    (tmp_path / "compare.json").write_text('{"version": 1}')
    with pytest.raises(DataError, match="no plan of this version"):
        planned(tiny, Request(losses=["ce"]), tmp_path)


def test_data_devices_and_references_are_checked_first(tiny: RunConfig, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="--reference mbls: no such method; known: ce"):
        planned(tiny, Request(losses=["ce"], reference="mbls"), tmp_path)
    with pytest.raises(ConfigError, match="nothing to compare"):
        planned(tiny, Request(), tmp_path)
    gone = tiny.model_copy(update={"data": tiny.data.model_copy(update={"root": str(tmp_path / "gone")})})
    with pytest.raises(DataRefusedError):
        planned(gone, Request(losses=["ce"]), tmp_path)
    assert devices_of("cpu", tiny) == ["cpu"]
    with pytest.raises(ConfigError, match="each device once"):
        devices_of("cpu,cpu", tiny)
    with pytest.raises(ConfigError, match="cuda:77"):
        devices_of("cuda:77", tiny)
