"""The training loop. Stopping after any step and resuming gives the same weights as not stopping."""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DataLoader
from tqdm import tqdm

from medcalib import distributed
from medcalib.config import RunConfig
from medcalib.config.dataset import cases_and_split
from medcalib.data.splits import Split
from medcalib.engine import run as folder
from medcalib.engine.checkpoint import Checkpoints
from medcalib.engine.claim import claimed
from medcalib.engine.execution import compiled, placed, reproducible
from medcalib.engine.idle_terms import idle_terms
from medcalib.engine.loader import EpochBatches, training_loader, validation_items
from medcalib.engine.multiplier_line import multipliers
from medcalib.engine.optimization import build_optimizer, build_scaler, build_schedule
from medcalib.engine.provenance import Provenance
from medcalib.engine.signals import Stop, listening
from medcalib.engine.state import Progress, State
from medcalib.engine.status import Status, advised
from medcalib.engine.step import optimizer_step
from medcalib.engine.tracking import Tracker, Trackers, shareable, wanted
from medcalib.engine.validate import validate
from medcalib.errors import ConfigError, PreemptedError, TrainingError
from medcalib.files import refuse_links_out, same_place

__all__ = ["train"]

log = logging.getLogger(__name__)
MAX_BAD_STEPS = 20  # in a row: fp16 loss scaling may need a dozen to settle


@dataclass
class Training:
    """One run at work in one process: what is trained, on what, and where it is kept."""

    config: RunConfig
    out: Path
    state: State
    network: nn.Module  # the model, perhaps compiled, which adds up gradients over ranks where there are several
    loader: DataLoader[Any]
    batches: EpochBatches
    validation: Any
    checkpoints: Checkpoints
    status: Status
    stop: Stop
    trackers: Trackers = field(default_factory=lambda: Trackers(()))


def train(config: RunConfig, out: Path, *, resume: bool = False, followers: Sequence[Tracker] = ()) -> dict[str, Any]:
    """Train as `config` says into the run folder `out`; returns the line of the last epoch.

    `resume` continues after the last whole checkpoint, or starts where there is none yet. Nothing is written before
    data, network and device are known to work. Started by torchrun, each process is a rank of one run. SIGTERM, SIGUSR1
    or Ctrl-C end it after the step at work. `followers` are told of each line, as `train.trackers` are.
    Raises `ConfigError` for a folder that holds another run or that another process trains in, `MissingExtraError` for
    a tracker that is not installed, `DataRefusedError` or `DataError` for bad data, `TrainingError` when the loss stays
    non-finite, `RankError` when another rank is gone, `PreemptedError` after a signal.
    """
    with listening() as stop, ExitStack() as held:
        device = distributed.start(config.train.device, config.train.rank_timeout_s)
        if not distributed.is_main():
            logging.getLogger("medcalib").setLevel(logging.WARNING)
        resume = resume and (out / folder.CONFIG).exists()
        with distributed.together(), advised():
            followers = [*wanted(config, out), *followers]
            split = _split(config, out, resume)
            training = _prepared(config, out, split, device, stop)
        with distributed.together():
            if distributed.is_main():
                held.enter_context(claimed(out))
                if not resume:
                    folder.check_free(out)  # another may have begun there meanwhile
                provenance = Provenance(out, config, device, split)
                _write_folder(training, None if resume else split)
                _follow(training, provenance, followers)
        if distributed.is_running():
            ids = None if device.index is None else [device.index]
            training.network = DistributedDataParallel(training.network, device_ids=ids)
        if training.state.epoch >= config.train.epochs:
            log.info("%s is complete already: %d epochs", out, training.state.epoch)
        with training.status.recorded(), training.trackers.told_the_end(), reproducible(config.train):
            _run(training)
    line = folder.last_metrics(out)
    for warning in idle_terms(line, config.loss.name) if distributed.is_main() else ():
        log.warning(warning)
    return line


def _split(config: RunConfig, out: Path, resume: bool) -> Split:
    if same_place(out, config.root):
        raise ConfigError(f"{out} is the folder of the data; choose another --out for the run")
    refuse_links_out(out)
    if resume:
        folder.check_same(out, config)
        return {name: folder.cases_of(out, config, name) for name in ("train", "val")}
    folder.check_free(out)
    return cases_and_split(config)


def _prepared(config: RunConfig, out: Path, split: Split, device: torch.device, stop: Stop) -> Training:
    """Read data and checkpoint, build the network; nothing is written yet."""
    torch.manual_seed(config.train.seed)
    validation, channels = validation_items(config, split["val"])
    loader, batches = training_loader(config, split["train"], channels)
    model = placed(folder.build_model(config, channels), config.train, device)
    optimizer = build_optimizer(config.train, model.parameters())
    schedule, scaler = build_schedule(config.train, optimizer), build_scaler(config.train, device)
    objective = config.build_objective().to(device)
    state = State(model, objective, optimizer, schedule, scaler, channels, device, config.train.accumulate)
    if distributed.rank():  # the weights become rank 0's, but dropout must differ
        torch.manual_seed(config.train.seed + distributed.rank())
    checkpoints, status = Checkpoints(out), Status(out)
    if checkpoints.manifest["last"]:
        state.restore(checkpoints.load_last())
    status.epoch, status.step = state.epoch, state.progress.step
    network = compiled(model, config.train)
    return Training(config, out, state, network, loader, batches, validation, checkpoints, status, stop)


def _write_folder(training: Training, new: Split | None) -> None:
    """A new run folder for a new split; else order in the one that is continued."""
    if new is not None:
        folder.start(training.out, training.config, new)
    training.checkpoints.remove_abandoned()
    folder.truncate_metrics(training.out, training.state.epoch)


def _follow(training: Training, provenance: Provenance, followers: Sequence[Tracker]) -> None:
    """Write down the start, and tell all who follow."""
    provenance.begin(training.state.epoch, training.state.progress.step)
    training.trackers = Trackers([provenance, *followers])
    training.trackers.start(shareable(training.config), provenance.summary())


def _run(training: Training) -> None:
    state, config, stop = training.state, training.config, training.stop
    stop.stepping = True
    while state.epoch < config.train.epochs:
        if state.progress.line is None:
            _train_epoch(training)
        if stop.agreed():
            _end_early(training)
        number = state.epoch + 1
        line = {"epoch": number, **(state.progress.line or {})}
        if number % config.train.validate_every == 0 or number == config.train.epochs:
            line |= _validate(training, number)
        line |= multipliers(state.objective, config.data.class_names)
        state.epoch, state.progress = number, Progress()
        with distributed.together():
            if distributed.is_main():
                folder.append_metrics(training.out, line)
                training.trackers.log(line, number)
        _save(training)
        log.info("%s", "  ".join(f"{k} {v:.4g}" for k, v in line.items() if isinstance(v, (int, float))))


def _save(training: Training) -> None:
    state, status = training.state, training.status
    saved = state.to_save()
    with distributed.together():
        if distributed.is_main():
            training.checkpoints.save_last(saved, state.epoch, state.progress.step)
    status.epoch, status.step = state.epoch, state.progress.step
    if distributed.is_main():
        status.write("running")


def _end_early(training: Training) -> None:
    """Save, and say how to continue."""
    _save(training)
    state = training.state
    raise PreemptedError(
        f"{training.stop.signal or 'a signal to another rank'}: stopped after step {state.progress.step} of epoch "
        f"{state.epoch + 1}; the same command with --resume continues there"
    )


def _validate(training: Training, number: int) -> dict[str, Any]:
    config, state = training.config, training.state
    driven = config.train.multipliers == "validation"
    observer = state.objective if driven else None
    state.share_buffers()
    scores = validate(state.model, training.validation, config, state.device, observer, training.stop)
    if scores is None:
        if driven:
            state.objective.discard()
        _end_early(training)
        return {}
    if driven and scores["dice"] is None and scores["ece_pred_foreground"] is None:
        state.objective.discard()  # the network gave logits that are not finite, or there is no case
    elif driven:
        state.objective.update_multipliers()
    dice = scores["dice"]
    if dice is not None and dice > state.best:
        state.best = dice
        best = {"model": state.model.state_dict(), "in_channels": state.in_channels, "epoch": number}
        with distributed.together():
            if distributed.is_main():
                training.checkpoints.save_best(best, number, dice)
    return {f"val_{name}": value for name, value in scores.items()}


def _train_epoch(training: Training) -> None:
    """The steps of an epoch that are left; then its line: mean loss, its parts by name, and what it cost."""
    config, state, progress = training.config.train, training.state, training.state.progress
    training.batches.begin(state.epoch, progress.step)
    state.model.train()
    shown = tqdm(
        zip(*[iter(training.loader)] * config.accumulate, strict=True),
        f"epoch {state.epoch + 1}/{config.epochs}",
        total=training.batches.steps,
        initial=progress.step,
        leave=False,
        disable=not (distributed.is_main() and sys.stderr.isatty()),
    )
    began = time.perf_counter()
    for patches in shown:
        parts = _step(training, patches)
        progress.add(parts)
        _count_bad(state, parts is None)
        began, progress.seconds = (now := time.perf_counter()), progress.seconds + now - began
        shown.set_postfix({name: f"{value:.3f}" for name, value in (parts or {}).items()})
        if progress.step < training.batches.steps:  # else the epoch is brought to its end first
            if training.stop.agreed():
                _end_early(training)
            if config.checkpoint_steps and progress.step % config.checkpoint_steps == 0:
                _save(training)
    lr = float(state.optimizer.param_groups[0]["lr"])
    if progress.good:  # torch warns of a schedule that steps before any optimizer step
        state.schedule.step()
    means = progress.means()
    line: dict[str, Any] = {"loss": sum(means.values()) if means else None, "parts": means, "lr": lr}
    progress.line = line | {"skipped_steps": progress.bad, "seconds": round(progress.seconds, 3)}
    state.objective.update_schedules()
    if config.multipliers == "train":
        state.objective.update_multipliers()


def _count_bad(state: State, bad: bool) -> None:
    state.bad_in_a_row = state.bad_in_a_row + 1 if bad else 0
    if state.bad_in_a_row >= MAX_BAD_STEPS:
        raise TrainingError(
            f"the loss was not finite in {state.bad_in_a_row} steps in a row (epoch {state.epoch + 1}); the "
            "last checkpoint is intact. Lower train.lr, or set train.precision to bf16 or fp32, in a new --out"
        )


def _step(training: Training, patches: Sequence[tuple[Tensor, Tensor]]) -> dict[str, float] | None:
    return optimizer_step(training.network, training.state, training.config.train, patches)
