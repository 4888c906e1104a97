"""`medcalib bench train`: every phase of every loss is there; how fast anything is, is no test's business."""

from __future__ import annotations

import json

import pytest
import torch
from tiny import TINY, changed
from typer.testing import CliRunner

from medcalib.cli import app
from medcalib.config import RunConfig, load
from medcalib.config.bundled import bundled
from medcalib.engine.bench_synthetic import BLOB, Synthetic, synthetic_batches
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
        assert row["peak_mib"] is row["gpu_percent"] is None
        assert sum(row["shares"].values()) == pytest.approx(1)
        assert row["shares"].keys() == set(PHASES)
        assert row["voxels_per_s"] * row["run_ms"] / 1e3 == pytest.approx(2 * 16 * 16 * 4)
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


SMALL = ("model.filters=[8, 8, 8]", "model.kernel_size=[3, 3, 3]", "model.strides=[1, 2, 1]")


def test_made_up_batches_need_no_dataset() -> None:
    call = ["bench", "train", "--synthetic", "18x10x8", "--classes", "5", "--batch", "3", "--channels", "2"]
    call += ["--device", "cpu", "--losses", "ce,crac", "--steps", "1", "--json"]
    result = CliRunner().invoke(app, [*call, *(part for option in SMALL for part in ("--set", option))])
    assert result.exit_code == 0, result.output
    found = json.loads(result.stdout)
    assert (found["batch"], found["classes"], found["gpu"]) == ("3x2x18x10x8", 5, None)
    assert (found["precision"], found["channels_last"], found["compile"]) == ("fp32", False, False)
    for row in found["losses"].values():
        assert row["voxels_per_s"] * row["run_ms"] / 1e3 == pytest.approx(3 * 18 * 10 * 8)


def test_made_up_labels_are_blocks_of_every_class() -> None:
    made = Synthetic((64, 64, 20), classes=4, batch=2, channels=3)
    config = load(bundled()["msd_hippocampus"], overrides=made.overrides()[:-2])
    config = changed(config, patch_size=made.patch, batch_size=made.batch)
    (images, labels), (others, _) = (next(synthetic_batches(config, 3)) for _ in range(2))
    assert torch.equal(images, others)  # the same for every call
    assert (images.shape, labels.shape) == ((2, 3, 64, 64, 20), (2, 64, 64, 20))
    assert labels.unique().tolist() == [0, 1, 2, 3]
    assert (labels[:, :BLOB, :BLOB, :BLOB].flatten(1).diff() == 0).all()


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (["--classes", "3", "--batch", "2"], "--classes, --batch: of made-up batches"),
        (["--synthetic", "128x128"], "expected three sizes of a patch, as in 128x128x128, got '128x128'"),
        (["--synthetic", "100x128x128"], "train.patch_size"),
        ([], "name a config"),
    ],
)
def test_options_that_do_not_go_together_are_refused(options: list[str], told: str) -> None:
    result = CliRunner().invoke(app, ["bench", "train", *options])
    assert result.exit_code == 2
    assert told in result.stderr


def test_a_busy_gpu_is_sampled_and_one_that_does_not_say_is_null(monkeypatch: pytest.MonkeyPatch) -> None:
    from medcalib.engine import utilization

    monkeypatch.setattr(utilization, "EVERY_S", 0.0)
    samples = iter([40, 80])

    def sampled(device: torch.device) -> int:
        return next(samples)  # StopIteration after two: as a driver that fails

    monkeypatch.setattr(torch.cuda, "utilization", sampled)
    with utilization.Utilization(torch.device("cuda")) as found:
        found._thread.join()
    assert found.percent == 60
    with utilization.Utilization(torch.device("cuda")) as found:
        found._thread.join()
    assert found.percent is None
