"""Two ranks train one network: equal weights, disjoint patches and cases, exact scores; they stop and resume as one."""

from __future__ import annotations

import json
import os
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers import leave_group
from runs import assert_same_runs, lines, same, signal_after, status
from tiny import TINY, changed
from torch import distributed as dist
from torch import multiprocessing

from medcalib import distributed
from medcalib.config import RunConfig, load
from medcalib.config.bundled import bundled
from medcalib.config.dataset import cases_and_split
from medcalib.engine import train as module
from medcalib.engine.checkpoint import Checkpoints
from medcalib.engine.loader import EpochBatches, validation_items
from medcalib.engine.run import build_model
from medcalib.engine.train import train
from medcalib.engine.validate import validate
from medcalib.errors import CheckpointError, ConfigError, PreemptedError, TrainingError
from medcalib.losses import Objective

LEARNS = ("loss=crac", "train.multipliers=train", "model.dropout=0.2", "model.norm=batch", "train.validate_every=1")
PLAIN = ("train.optimizer=sgd", "train.lr=0.1", "train.validate_every=1")


def config_of(phantom: str | Path, *overrides: str) -> RunConfig:
    return load(bundled()["phantom"], data=str(phantom), overrides=(*TINY, "train.epochs=2", *overrides))


def straight(out: Path, phantom: str) -> None:
    train(config_of(phantom, *LEARNS), out / "straight")


def plain(out: Path, phantom: str) -> None:
    """Keeps what each rank ends with: the weights."""
    ended: list[Any] = []
    with pytest.MonkeyPatch.context() as patch:
        original = module._save
        patch.setattr(module, "_save", lambda training: ended.append(training.state.model) or original(training))
        train(config_of(phantom, *PLAIN), out / "plain")
    torch.save(ended[-1].state_dict(), out / f"weights-{distributed.rank()}.pt")


def stopped(out: Path, phantom: str) -> None:
    """The second rank alone hears a signal, in its fifth step; both end."""
    with pytest.MonkeyPatch.context() as patch:
        if distributed.rank() == 1:
            signal_after(4, patch)
        with pytest.raises(PreemptedError, match="stopped after step 2 of epoch 2"):
            train(config_of(phantom, *LEARNS), out / "stopped")
    torch.manual_seed(99)
    train(config_of(phantom, *LEARNS), out / "stopped", resume=True)


def left(out: Path, phantom: str) -> None:
    """Two runs for one process to continue: one within an epoch, one between two."""
    with pytest.MonkeyPatch.context() as patch:
        signal_after(1, patch)
        with pytest.raises(PreemptedError):
            train(config_of(phantom, *PLAIN), out / "within")
    with pytest.MonkeyPatch.context() as patch:
        signal_after(2, patch)
        with pytest.raises(PreemptedError):
            train(config_of(phantom, *PLAIN), out / "between")


def taken_over(out: Path, phantom: str) -> None:
    """What one process has begun with two batches a step, two ranks go on with one each; three batches are refused."""
    with pytest.raises(CheckpointError, match="from 2 batches .* now it would be 4; .* so that the product is 2"):
        train(config_of(phantom, *PLAIN, "train.accumulate=2"), out / "alone", resume=True)
    train(config_of(phantom, *PLAIN), out / "alone", resume=True)


def poisoned(out: Path, phantom: str) -> None:
    """The loss of the second rank alone is not finite in its second step, whose first batch is fine."""
    calls: list[int] = []
    original = Objective.parts

    def parts(self: Objective, *args: Any, **options: Any) -> dict[str, torch.Tensor]:
        calls.append(1)
        factor = float("nan") if distributed.rank() and len(calls) == 4 else 1.0
        return {name: part * factor for name, part in original(self, *args, **options).items()}

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Objective, "parts", parts)
        train(config_of(phantom, *PLAIN, "train.accumulate=2"), out / "poisoned")


def refused(out: Path, phantom: str) -> None:
    """What one rank cannot do ends all; nobody waits for ever."""
    config = config_of(phantom, *PLAIN)
    if distributed.rank():
        (out / "mine").mkdir()
        (out / "mine" / "config.yaml").touch()
    with pytest.raises(
        ConfigError if distributed.rank() else TrainingError, match="already holds|another rank could not"
    ):
        train(config, out / ("mine" if distributed.rank() else "other"))
    assert not (out / "other").exists()


def full_disk(out: Path, phantom: str) -> None:
    """Only the first rank writes, and only it meets the error."""

    def no_space(*args: Any) -> None:
        raise OSError(28, "No space left on device")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Checkpoints, "_write", no_space)
        with pytest.raises(TrainingError if distributed.rank() else OSError):
            train(config_of(phantom, *PLAIN), out / "full")


def differing(out: Path, phantom: str) -> None:
    """Weights that differ between ranks are never saved."""
    with pytest.MonkeyPatch.context() as patch:
        original = module._save

        def tampered(training: Any) -> None:
            next(training.state.model.parameters()).data[0] += distributed.rank()
            original(training)

        patch.setattr(module, "_save", tampered)
        with pytest.raises(TrainingError, match="weights differ between ranks"):
            train(config_of(phantom, *PLAIN), out / "differing")


def scored(out: Path, phantom: str) -> None:
    """Validation of three cases by any number of ranks, one of which then has fewer."""
    config = config_of(phantom, "loss=crac")
    torch.manual_seed(1)
    model, objective = build_model(config, 1), config.build_objective()
    items, channels = validation_items(config, cases_and_split(config)["val"][:3])
    scores = validate(model, items, config, torch.device("cpu"), objective)
    objective.update_multipliers()
    torch.save({"scores": scores, "lam": objective.state_dict()["terms.crac.multipliers.lam"]}, out / "scored.pt")
    assert (len(items), channels) == ([3, 2, 1][distributed.ranks() - 1 + distributed.rank()], 1)


SCENES = (straight, plain, stopped, left, taken_over, poisoned, refused, full_disk, differing, scored)


def one_rank(rank: int, store: str, phantom: str, out: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group(
        "gloo", init_method=f"file://{store}", rank=rank, world_size=2, timeout=timedelta(seconds=100)
    )
    for scene in SCENES:
        scene(Path(out), phantom)
    leave_group()


@pytest.fixture(scope="module")
def runs(phantom: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What two ranks leave behind; processes start once, since that takes longer than what they do."""
    folder = tmp_path_factory.mktemp("ranks")
    with pytest.MonkeyPatch.context() as patch:
        signal_after(2, patch)  # the last step of the first epoch
        with pytest.raises(PreemptedError):
            train(config_of(phantom, *PLAIN, "train.accumulate=2"), folder / "alone")
    multiprocessing.spawn(one_rank, (str(folder / "store"), str(phantom), str(folder)), nprocs=2)
    return folder


def test_two_ranks_equal_one_process_with_accumulated_batches(runs: Path, phantom: Path, tmp_path: Path) -> None:
    """The same patches in each step: halved gradients add up to the same bits either way, and validation is exact."""
    train(config_of(phantom, *PLAIN, "train.accumulate=2"), tmp_path / "one")
    ours, theirs = (Checkpoints(run).load_last()["model"] for run in (tmp_path / "one", runs / "plain"))
    for key, value in ours.items():
        torch.testing.assert_close(theirs[key], value, rtol=1e-5, atol=1e-7)
    for mine, other in zip(lines(tmp_path / "one"), lines(runs / "plain"), strict=True):
        assert other["val_dice"] == pytest.approx(mine["val_dice"], rel=1e-3)
        assert other["loss"] == pytest.approx(mine["loss"], rel=1e-5)


def test_validation_of_unequal_shards_is_exact(runs: Path, phantom: Path, tmp_path: Path) -> None:
    scored(tmp_path, str(phantom))
    one, two = (torch.load(folder / "scored.pt", weights_only=True) for folder in (tmp_path, runs))
    assert one["scores"] == two["scores"]
    assert one["scores"]["dice"] > 0
    torch.testing.assert_close(two["lam"], one["lam"], rtol=1e-12, atol=0)  # sums of float64 in another order


def test_all_ranks_hold_the_same_weights(runs: Path) -> None:
    first, second = (torch.load(runs / f"weights-{rank}.pt", weights_only=True) for rank in (0, 1))
    assert same(first, second)
    assert same(first, Checkpoints(runs / "plain").load_last()["model"])


@pytest.mark.fault(61, 62)
def test_a_signal_to_one_rank_ends_both_and_they_continue_to_the_same_bits(runs: Path) -> None:
    """Dropout, batch normalization, and sums of multipliers that differ between ranks included."""
    assert_same_runs(runs / "straight", runs / "stopped")
    saved = Checkpoints(runs / "straight").load_last()
    assert saved["ranks"] == 2
    assert not torch.equal(saved["rng"], saved["others"][0]["rng"])


@pytest.mark.fault(71)
def test_one_process_continues_two_ranks_between_epochs(
    runs: Path, phantom: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """With two batches a step; within an epoch, or with one batch, it is refused."""
    one = config_of(phantom, *PLAIN)
    with pytest.raises(CheckpointError, match="from 2 batches"):
        train(one, runs / "between", resume=True)
    with pytest.raises(CheckpointError, match="within an epoch of 2 ranks"):
        train(changed(one, accumulate=2), runs / "within", resume=True)
    with caplog.at_level("INFO"):
        train(changed(one, accumulate=2), runs / "between", resume=True)
    assert "continued by 1 ranks, begun by 2" in caplog.text
    assert lines(runs / "between")[1]["loss"] == pytest.approx(lines(runs / "plain")[1]["loss"], rel=1e-5)


@pytest.mark.fault(71)
def test_two_ranks_continue_one_process_between_epochs(runs: Path) -> None:
    assert Checkpoints(runs / "alone").load_last()["ranks"] == 2
    assert [line["loss"] for line in lines(runs / "alone")] == [
        pytest.approx(line["loss"], rel=1e-5) for line in lines(runs / "plain")
    ]


@pytest.mark.fault(64)
def test_a_loss_that_is_not_finite_on_one_rank_skips_the_step_on_all(runs: Path) -> None:
    assert [line["skipped_steps"] for line in lines(runs / "poisoned")] == [1, 0]
    assert all(value.isfinite().all() for value in Checkpoints(runs / "poisoned").load_last()["model"].values())


def test_an_error_of_one_rank_ends_all(runs: Path) -> None:
    """The scenes assert what each rank sees."""
    assert json.loads((runs / "full" / "status.json").read_text())["reason"].endswith("No space left on device")
    assert status(runs / "differing") == "failed"
    assert Checkpoints(runs / "differing").manifest["last"] == []


@pytest.mark.parametrize("ranks", [1, 2, 3])
@pytest.mark.parametrize("accumulate", [1, 2])
def test_the_patches_of_a_step_do_not_depend_on_how_they_are_spread(ranks: int, accumulate: int) -> None:
    """12 patches a step, over any ranks and batches: the same ones, each on one rank; a pass meets each case once."""
    size = 12 // (ranks * accumulate)
    whole = list(EpochBatches(36, 12, None, seed=5))
    shares = [EpochBatches(36, size, None, 5, accumulate=accumulate, rank=r, ranks=ranks) for r in range(ranks)]
    dealt = [list(share) for share in shares]
    assert [len(share) for share in shares] == [len(batches) for batches in dealt] == [3 * accumulate] * ranks
    for step, wanted in enumerate(whole):
        own = [draw for batches in dealt for batch in batches[step * accumulate :][:accumulate] for draw in batch]
        assert sorted(own) == sorted(wanted)
    assert sorted(case for batches in dealt for batch in batches for case, _ in batch) == list(range(36))
    shares[0].begin(0, 2)
    assert list(shares[0]) == dealt[0][2 * accumulate :]
    assert len(shares[0]) == accumulate


def test_what_torchrun_would_set_is_needed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    for name in ("RANK", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(ConfigError, match=r"RANK, LOCAL_RANK, MASTER_ADDR, MASTER_PORT is not set; .* torchrun"):
        distributed.start("cpu", 1)
    for name in ("RANK", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT"):
        monkeypatch.setenv(name, "0")
    with pytest.raises(ConfigError, match="'cuda:1' is one device, but several ranks run"):
        distributed.start("cuda:1", 1)
    assert not dist.is_initialized()
    assert os.environ["WORLD_SIZE"] == "2"
