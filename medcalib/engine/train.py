"""The training loop. Stopping after any epoch and resuming gives the same weights as not stopping."""

from __future__ import annotations

import logging
import math
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.lr_scheduler import LRScheduler
from tqdm import tqdm

from medcalib.config import RunConfig
from medcalib.config.dataset import cases_and_split
from medcalib.data.splits import Split
from medcalib.distributed import resolve_device
from medcalib.engine import run as folder
from medcalib.engine.checkpoint import Checkpoints
from medcalib.engine.loader import preprocessed, training_loader
from medcalib.engine.optimization import build_optimizer, build_scaler, build_schedule
from medcalib.engine.validate import validate
from medcalib.errors import CheckpointError, TrainingError
from medcalib.losses import Objective

log = logging.getLogger(__name__)
MAX_BAD_STEPS = 20  # in a row: fp16 loss scaling may need a dozen to settle


@dataclass
class State:
    """Everything that a checkpoint restores."""

    model: nn.Module
    objective: Objective
    optimizer: torch.optim.Optimizer
    schedule: LRScheduler
    scaler: torch.amp.GradScaler
    in_channels: int
    epoch: int = 0
    best: float = -1.0
    bad_in_a_row: int = 0

    def to_save(self) -> dict[str, Any]:
        """Tensors and plain values only."""
        parts = ("model", "objective", "optimizer", "schedule", "scaler")
        state = {name: getattr(self, name).state_dict() for name in parts}
        state |= {name: getattr(self, name) for name in ("epoch", "best", "bad_in_a_row", "in_channels")}
        state["rng"] = torch.get_rng_state()
        if torch.cuda.is_available():
            state["cuda_rng"] = torch.cuda.get_rng_state_all()
        return state

    def restore(self, saved: dict[str, Any]) -> None:
        """Continue from what `to_save` gave."""
        try:
            for name in ("model", "objective", "optimizer", "schedule", "scaler"):
                getattr(self, name).load_state_dict(saved[name])
            self.epoch, self.best = int(saved["epoch"]), float(saved["best"])
            self.bad_in_a_row = int(saved["bad_in_a_row"])
            torch.set_rng_state(saved["rng"])
            if torch.cuda.is_available() and "cuda_rng" in saved:
                torch.cuda.set_rng_state_all(saved["cuda_rng"])
        except (KeyError, RuntimeError, ValueError) as error:
            raise CheckpointError(f"the checkpoint does not fit this config: {error}") from error


def train(config: RunConfig, out: Path, *, resume: bool = False) -> dict[str, Any]:
    """Train as `config` says into the run folder `out`; returns the line of the last epoch.

    `resume` continues after the last whole checkpoint, or starts where there is none yet. Nothing is written before
    data, network and device are known to work. Raises `ConfigError` for a folder that holds another run,
    `DataRefusedError` or `DataError` for bad data, `TrainingError` when the loss stays non-finite.
    """
    resume = resume and (out / folder.CONFIG).exists()
    if resume:
        folder.check_same(out, config)
        split: Split = {name: folder.cases_of(out, config, name) for name in ("train", "val")}
    else:
        folder.check_free(out)
        split = cases_and_split(config)
    device = resolve_device(config.train.device)
    torch.manual_seed(config.train.seed)
    validation = preprocessed(config, split["val"])
    channels = int(validation[0]["image"].shape[0])
    loader, batches = training_loader(config, split["train"], channels)
    state = _initial(config, channels, device)
    if not resume:
        folder.start(out, config, split)
    checkpoints = Checkpoints(out)
    if checkpoints.manifest["last"]:
        state.restore(checkpoints.load_last())
    folder.truncate_metrics(out, state.epoch)
    if state.epoch >= config.train.epochs:
        log.info("%s is complete already: %d epochs", out, state.epoch)
    _run(config, out, state, checkpoints, loader, batches, validation, device)
    return folder.last_metrics(out)


def _initial(config: RunConfig, in_channels: int, device: torch.device) -> State:
    model = folder.build_model(config, in_channels).to(device)
    optimizer = build_optimizer(config.train, model.parameters())
    return State(
        model,
        config.build_objective().to(device),
        optimizer,
        build_schedule(config.train, optimizer),
        build_scaler(config.train, device),
        in_channels,
    )


def _run(
    config: RunConfig,
    out: Path,
    state: State,
    checkpoints: Checkpoints,
    loader: Any,
    batches: Any,
    validation: Any,
    device: torch.device,
) -> None:
    checkpoints.set_status("running")
    try:
        while state.epoch < config.train.epochs:
            batches.epoch = state.epoch
            line = _train_epoch(config, state, loader, device)
            state.epoch += 1
            line = {"epoch": state.epoch, **line}
            state.objective.update_schedules()
            if config.train.multipliers == "train":
                state.objective.update_multipliers()
            if state.epoch % config.train.validate_every == 0 or state.epoch == config.train.epochs:
                line |= _validate(config, state, validation, device, checkpoints)
            folder.append_metrics(out, line)
            checkpoints.save_last(state.to_save(), state.epoch)
            log.info("%s", "  ".join(f"{k} {v:.4g}" for k, v in line.items() if isinstance(v, (int, float))))
    except KeyboardInterrupt:
        checkpoints.set_status("interrupted")
        raise
    except BaseException:
        checkpoints.set_status("failed")
        raise
    checkpoints.set_status("complete")


def _validate(
    config: RunConfig, state: State, validation: Any, device: torch.device, checkpoints: Checkpoints
) -> dict[str, Any]:
    driven = config.train.multipliers == "validation"
    scores = validate(state.model, validation, config, device, state.objective if driven else None)
    if driven and scores["dice"] is None and scores["ece_pred_foreground"] is None:
        state.objective.discard()  # the network gave logits that are not finite, or there is no case
    elif driven:
        state.objective.update_multipliers()
    dice = scores["dice"]
    if dice is not None and dice > state.best:
        state.best = dice
        best = {"model": state.model.state_dict(), "in_channels": state.in_channels, "epoch": state.epoch}
        checkpoints.save_best(best, state.epoch, dice)
    return {f"val_{name}": value for name, value in scores.items()}


def _train_epoch(config: RunConfig, state: State, loader: Any, device: torch.device) -> dict[str, Any]:
    """One pass over the epoch's batches; returns mean loss, its parts by name, and what it cost."""
    state.model.train()
    totals: dict[str, float] = {}
    good = bad = 0
    started = time.perf_counter()
    progress = tqdm(
        loader, f"epoch {state.epoch + 1}/{config.train.epochs}", leave=False, disable=not sys.stderr.isatty()
    )
    for images, labels in progress:
        parts = _step(config, state, images.to(device), labels.to(device))
        if parts is None:
            bad, state.bad_in_a_row = bad + 1, state.bad_in_a_row + 1
            if state.bad_in_a_row >= MAX_BAD_STEPS:
                raise TrainingError(
                    f"the loss was not finite in {state.bad_in_a_row} steps in a row (epoch {state.epoch + 1}); the "
                    "last checkpoint is intact. Lower train.lr, or use precision bf16 or fp32"
                )
            continue
        good, state.bad_in_a_row = good + 1, 0
        for name, value in parts.items():
            totals[name] = totals.get(name, 0.0) + value
        progress.set_postfix({name: f"{value:.3f}" for name, value in parts.items()})
    lr = float(state.optimizer.param_groups[0]["lr"])
    if good:  # torch warns of a schedule that steps before any optimizer step
        state.schedule.step()
    means = {name: value / good for name, value in totals.items()} if good else {}
    line: dict[str, Any] = {"loss": sum(means.values()) if good else None, "parts": means, "lr": lr}
    return line | {"skipped_steps": bad, "seconds": round(time.perf_counter() - started, 3)}


def _step(config: RunConfig, state: State, images: Tensor, labels: Tensor) -> dict[str, float] | None:
    """One optimizer step; None when the loss or a gradient is not finite, and then nothing is changed."""
    precision = {"bf16": torch.bfloat16, "fp16": torch.float16}.get(config.train.precision)
    with torch.autocast(images.device.type, precision, enabled=precision is not None):
        logits = state.model(images)
    parts = state.objective.parts(logits, labels, images, remember=config.train.multipliers == "train")
    values = {name: float(part.detach()) for name, part in parts.items()}
    if not all(math.isfinite(value) for value in values.values()):
        return None
    state.optimizer.zero_grad(set_to_none=True)
    state.scaler.scale(torch.stack(list(parts.values())).sum()).backward()  # type: ignore[no-untyped-call]
    state.scaler.unscale_(state.optimizer)
    norm = nn.utils.clip_grad_norm_(state.model.parameters(), config.train.clip_norm or math.inf)
    finite = bool(torch.isfinite(norm))
    if finite or state.scaler.is_enabled():
        state.scaler.step(state.optimizer)  # leaves the weights alone when a scaled gradient overflowed
    state.scaler.update()
    if finite and config.train.multipliers == "train":
        state.objective.observe_remembered()
    return values if finite else None
