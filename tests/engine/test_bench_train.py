"""`medcalib bench train`: every phase of every loss is there; how fast anything is, is no test's business."""

from __future__ import annotations

import json

import pytest
from tiny import TINY, changed
from typer.testing import CliRunner

from medcalib.cli import app
from medcalib.config import RunConfig, load
from medcalib.config.bundled import bundled
from medcalib.engine.bench_train import PHASES, bench_steps
from medcalib.errors import ConfigError


def test_phases_add_up_and_the_first_is_the_measure(tiny: RunConfig) -> None:
    crac = load(bundled()["phantom"], data=str(tiny.data.root), overrides=TINY, loss="crac")
    found = bench_steps({"ce": tiny, "crac": crac}, 5)  # more than an epoch of batches
    assert list(found["losses"]) == ["ce", "crac"]
    assert (found["batch"], found["device"]) == ("2x1x16x16x4", "cpu")
    for row in found["losses"].values():
        assert min(row[f"{phase}_ms"] for phase in PHASES) > 0
        assert row["step_ms"] > max(row["forward_ms"], row["backward_ms"])
        assert row["peak_mib"] is None
    assert found["losses"]["ce"]["ratio"] == 1


def test_configs_that_differ_otherwise_are_no_comparison(tiny: RunConfig) -> None:
    with pytest.raises(ConfigError, match="differ in their loss only"):
        bench_steps({"a": tiny, "b": changed(tiny, batch_size=1)}, 1)


def test_the_command_prints_a_table_or_json(tiny: RunConfig) -> None:
    call = ["bench", "train", "phantom", "--data", str(tiny.data.root), "--losses", "ce,nacl", "--steps", "1"]
    call += [part for option in TINY for part in ("--set", option)]
    shown = CliRunner().invoke(app, call)
    assert shown.exit_code == 0
    assert "step / ce" in shown.stdout
    assert json.loads(CliRunner().invoke(app, [*call, "--json"]).stdout)["losses"].keys() == {"ce", "nacl"}
