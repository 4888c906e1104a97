"""`medcalib bench train`: what a training step spends on data, network, loss and optimizer, loss by loss."""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn

from medcalib.config import RunConfig
from medcalib.config.dataset import cases_and_split
from medcalib.distributed import resolve_device
from medcalib.engine.bench_synthetic import Synthetic, synthetic_batches
from medcalib.engine.execution import (
    autocast,
    compiled,
    images_on_device,
    is_channels_last,
    on_device,
    placed,
    precision_of,
    reproducible,
)
from medcalib.engine.loader import training_loader
from medcalib.engine.optimization import build_optimizer, build_scaler
from medcalib.engine.run import build_model
from medcalib.engine.utilization import Utilization
from medcalib.errors import ConfigError
from medcalib.losses import Objective

PHASES = ("data", "forward", "loss", "backward", "optimizer")
WARMUP = 2
Batch = tuple[float, Tensor, Tensor]  # seconds that were waited for it, images, labels


@dataclass
class Contestant:
    """A network of its own with a loss; all start from the same weights and see the same batches."""

    network: nn.Module
    objective: Objective
    optimizer: torch.optim.Optimizer
    scaler: torch.amp.GradScaler
    seconds: dict[str, list[float]] = field(default_factory=lambda: {phase: [] for phase in PHASES})
    peak: int | None = None  # bytes
    row: dict[str, Any] = field(default_factory=dict)


def bench_steps(configs: Mapping[str, RunConfig], steps: int, synthetic: Synthetic | None = None) -> dict[str, Any]:
    """Median milliseconds of each phase of a step, for configs that differ in their loss only.

    The losses take turns at every batch, so that a machine that slows down slows all of them. On CUDA the device is
    waited for after every phase. `ratio` is the step without data against that of the first config; `peak_mib` the
    largest memory of the device (None on the CPU). Then each loss takes as many steps in a row as training does them,
    without waiting between phases: `run_ms` a step, `voxels_per_s`, and `gpu_percent`, the share of that time in which
    the device was at work (None without the package nvidia-ml-py). `synthetic` stands in for a dataset. Raises
    `ConfigError` for configs that differ otherwise.
    """
    first, *others = configs.values()
    for other in others:
        one, two = first.model_dump(exclude={"loss"}), other.model_dump(exclude={"loss"})
        if one != two:
            unlike = ", ".join(key for key in one if one[key] != two[key])
            raise ConfigError(f"the configs of a comparison may differ in their loss only, got different {unlike}")
    device = resolve_device(first.train.device)
    with reproducible(first.train):
        batches = _synthetic(first, synthetic) if synthetic else _batches(first, WARMUP + steps)
        batch = next(batches)
        channels = batch[1].shape[1]
        found = {name: _contestant(config, channels, device) for name, config in configs.items()}
        for number in range(WARMUP + steps):
            batch = next(batches) if number else batch
            for contestant in found.values():
                _measure(first, contestant, batch, device, counted=number >= WARMUP)
        for contestant in found.values():
            contestant.row = _row(contestant) | _in_a_row(first, contestant, batch, device, steps)
    return _facts(first, device, channels, steps) | {"losses": _with_ratios(found)}


def _facts(config: RunConfig, device: torch.device, channels: int, steps: int) -> dict[str, Any]:
    train = config.train
    return {
        "device": str(device),
        "gpu": torch.cuda.get_device_name(device) if device.type == "cuda" else None,
        "batch": "x".join(map(str, (train.batch_size, channels, *train.patch_size))),
        "classes": config.num_classes,
        "model": config.model.name,
        "precision": precision_of(train, device),
        "channels_last": is_channels_last(train, device),
        "compile": train.compile,
        "deterministic": train.deterministic,
        "steps": steps,
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
    }


def _with_ratios(found: Mapping[str, Contestant]) -> dict[str, dict[str, Any]]:
    baseline = next(iter(found.values())).row
    return {
        name: contestant.row
        | {
            "ratio": contestant.row["step_ms"] / baseline["step_ms"],
            "run_ratio": contestant.row["run_ms"] / baseline["run_ms"],
        }
        for name, contestant in found.items()
    }


def _batches(config: RunConfig, count: int) -> Iterator[Batch]:
    """Batches of the dataset, epoch after epoch."""
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


def _synthetic(config: RunConfig, synthetic: Synthetic) -> Iterator[Batch]:
    for images, labels in synthetic_batches(config, synthetic.channels):
        yield 0.0, images, labels


def _channels(config: RunConfig, case: Any) -> int:
    from medcalib.data.load import read_image

    return int(read_image(case, config.data.nonfinite)[0].shape[0])


def _contestant(config: RunConfig, channels: int, device: torch.device) -> Contestant:
    torch.manual_seed(config.train.seed)
    model = placed(build_model(config, channels), config.train, device).train()
    optimizer = build_optimizer(config.train, model.parameters())
    objective, scaler = config.build_objective().to(device), build_scaler(config.train, device)
    return Contestant(compiled(model, config.train), objective, optimizer, scaler)


def _measure(config: RunConfig, contestant: Contestant, batch: Batch, device: torch.device, *, counted: bool) -> None:
    """One step whose phases are waited for."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    waited, images, labels = batch
    marks = _step(config, contestant, images, labels, device, lambda: _now(device))
    if not counted:
        return
    used = [b - a for a, b in pairwise(marks)]
    for phase, seconds in zip(PHASES, [waited + used[0], *used[1:]], strict=True):
        contestant.seconds[phase].append(seconds)
    if device.type == "cuda":
        contestant.peak = max(contestant.peak or 0, torch.cuda.max_memory_allocated(device))


def _step(
    config: RunConfig,
    contestant: Contestant,
    images: Tensor,
    labels: Tensor,
    device: torch.device,
    now: Callable[[], float],
) -> list[float]:
    """One optimizer step as training takes it; what `now` gave at its start and after each phase."""
    marks = [now()]
    images, labels = images_on_device(images, config.train, device), on_device(labels, device)
    marks.append(now())
    contestant.optimizer.zero_grad(set_to_none=True)
    with autocast(config.train, device):
        logits = contestant.network(images)
    marks.append(now())
    parts = contestant.objective.parts(logits, labels, images)
    loss = torch.stack(list(parts.values())).sum()
    marks.append(now())
    contestant.scaler.scale(loss).backward()  # type: ignore[no-untyped-call]
    marks.append(now())
    contestant.scaler.unscale_(contestant.optimizer)
    norm = nn.utils.clip_grad_norm_(contestant.network.parameters(), config.train.clip_norm or math.inf)
    torch.stack([*(part.detach() for part in parts.values()), norm]).tolist()  # training decides by them
    contestant.scaler.step(contestant.optimizer)
    contestant.scaler.update()
    marks.append(now())
    return marks


def _row(contestant: Contestant) -> dict[str, Any]:
    medians = {phase: 1e3 * statistics.median(seconds) for phase, seconds in contestant.seconds.items()}
    works = zip(*(contestant.seconds[phase] for phase in PHASES[1:]), strict=True)
    step = 1e3 * statistics.median(sum(parts) for parts in works)
    whole = sum(medians.values())
    return {f"{phase}_ms": ms for phase, ms in medians.items()} | {
        "shares": {phase: ms / whole for phase, ms in medians.items()},
        "step_ms": step,
        "peak_mib": None if contestant.peak is None else contestant.peak / 2**20,
    }


def _in_a_row(
    config: RunConfig, contestant: Contestant, batch: Batch, device: torch.device, steps: int
) -> dict[str, Any]:
    """Steps as fast as they go, all with one batch."""
    _, images, labels = batch
    with Utilization(device) as utilization:
        began = _now(device)
        for _ in range(steps):
            _step(config, contestant, images, labels, device, time.perf_counter)
        seconds = (_now(device) - began) / steps
    return {
        "run_ms": 1e3 * seconds,
        "voxels_per_s": labels.numel() / seconds,
        "gpu_percent": utilization.percent,
    }


def _now(device: torch.device) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()
