"""`medcalib bench train`: what a training step spends on data, network, loss and optimizer, loss by loss."""

from __future__ import annotations

import statistics
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from medcalib.config import RunConfig
from medcalib.config.dataset import cases_and_split
from medcalib.distributed import resolve_device
from medcalib.engine.loader import training_loader
from medcalib.engine.optimization import build_optimizer, build_scaler
from medcalib.engine.run import build_model
from medcalib.errors import ConfigError
from medcalib.losses import Objective

PHASES = ("data", "forward", "loss", "backward", "optimizer")
WARMUP = 2


@dataclass
class Contestant:
    """A network of its own with a loss; all start from the same weights and see the same batches."""

    model: nn.Module
    objective: Objective
    optimizer: torch.optim.Optimizer
    scaler: torch.amp.GradScaler
    seconds: dict[str, list[float]] = field(default_factory=lambda: {phase: [] for phase in PHASES})


def bench_steps(configs: Mapping[str, RunConfig], steps: int) -> dict[str, Any]:
    """Median milliseconds of each phase of a step, for configs that differ in their loss only.

    The losses take turns at every batch, so that a machine that slows down slows all of them. On CUDA the device is
    waited for after every phase. `ratio` is the step without data against that of the first config; `peak_mib` the
    largest memory of the device (None on the CPU). Raises `ConfigError` for configs that differ otherwise.
    """
    first, *others = configs.values()
    for other in others:
        if other.model_dump(exclude={"loss"}) != first.model_dump(exclude={"loss"}):
            raise ConfigError("the configs of a comparison may differ in their loss only")
    device = resolve_device(first.train.device)
    batches = _batches(first, WARMUP + steps)
    waited, images, labels = next(batches)
    found = {name: _contestant(config, images.shape[1], device) for name, config in configs.items()}
    peak: dict[str, int | None] = dict.fromkeys(found)
    for number in range(WARMUP + steps):
        if number:
            waited, images, labels = next(batches)
        for name, contestant in found.items():
            used = _step(first, contestant, images.to(device), labels.to(device), device)
            peak[name] = _peak(device, peak[name])
            if number >= WARMUP:
                contestant.seconds["data"].append(waited)
                for phase, seconds in used.items():
                    contestant.seconds[phase].append(seconds)
    rows = {name: _row(contestant, peak[name]) for name, contestant in found.items()}
    baseline = next(iter(rows.values()))["step_ms"]
    for row in rows.values():
        row["ratio"] = row["step_ms"] / baseline
    patch = "x".join(map(str, (*images.shape[:2], *images.shape[2:])))
    facts = {"device": str(device), "batch": patch, "precision": first.train.precision, "steps": steps}
    return {**facts, "threads": torch.get_num_threads(), "torch": torch.__version__, "losses": rows}


def _batches(config: RunConfig, count: int) -> Iterator[tuple[float, Tensor, Tensor]]:
    """Seconds that were waited for a batch, and the batch; epoch after epoch."""
    split = cases_and_split(config)
    loader, batches = training_loader(config, split["train"], _channels(config, split["train"][0]))
    epoch = given = 0
    while given < count:
        batches.begin(epoch)
        epoch += 1
        started = time.perf_counter()
        for images, labels in loader:
            yield time.perf_counter() - started, images, labels
            given += 1
            if given == count:
                return
            started = time.perf_counter()


def _channels(config: RunConfig, case: Any) -> int:
    from medcalib.data.load import read_image

    return int(read_image(case, config.data.nonfinite)[0].shape[0])


def _contestant(config: RunConfig, channels: int, device: torch.device) -> Contestant:
    torch.manual_seed(config.train.seed)
    model = build_model(config, channels).to(device).train()
    optimizer = build_optimizer(config.train, model.parameters())
    return Contestant(model, config.build_objective().to(device), optimizer, build_scaler(config.train, device))


def _step(
    config: RunConfig, contestant: Contestant, images: Tensor, labels: Tensor, device: torch.device
) -> dict[str, float]:
    """Seconds of each phase of one optimizer step."""
    precision = {"bf16": torch.bfloat16, "fp16": torch.float16}.get(config.train.precision)
    marks = [_now(device)]
    with torch.autocast(device.type, precision, enabled=precision is not None):
        logits = contestant.model(images)
    marks.append(_now(device))
    parts = contestant.objective.parts(logits, labels, images)
    loss = torch.stack(list(parts.values())).sum()
    marks.append(_now(device))
    contestant.optimizer.zero_grad(set_to_none=True)
    contestant.scaler.scale(loss).backward()  # type: ignore[no-untyped-call]
    marks.append(_now(device))
    contestant.scaler.unscale_(contestant.optimizer)
    nn.utils.clip_grad_norm_(contestant.model.parameters(), config.train.clip_norm or float("inf"))
    contestant.scaler.step(contestant.optimizer)
    contestant.scaler.update()
    marks.append(_now(device))
    return {phase: b - a for phase, a, b in zip(PHASES[1:], marks[:-1], marks[1:], strict=True)}


def _row(contestant: Contestant, peak: int | None) -> dict[str, Any]:
    medians = {phase: 1e3 * statistics.median(seconds) for phase, seconds in contestant.seconds.items()}
    works = zip(*(contestant.seconds[phase] for phase in PHASES[1:]), strict=True)
    step = 1e3 * statistics.median(sum(parts) for parts in works)
    return {f"{phase}_ms": ms for phase, ms in medians.items()} | {
        "step_ms": step,
        "peak_mib": None if peak is None else peak / 2**20,
    }


def _now(device: torch.device) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()


def _peak(device: torch.device, before: int | None) -> int | None:
    if device.type != "cuda":
        return None
    found = torch.cuda.max_memory_allocated(device)
    torch.cuda.reset_peak_memory_stats(device)
    return max(found, before or 0)
