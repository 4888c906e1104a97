"""Optimizers, learning-rate schedules and loss scaling, all torch's."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import lr_scheduler

from medcalib.config import TrainConfig
from medcalib.engine.execution import precision_of
from medcalib.errors import ConfigError


def build_optimizer(config: TrainConfig, parameters: Iterable[nn.Parameter]) -> torch.optim.Optimizer:
    """AdamW, Adam or SGD with Nesterov momentum; on CUDA torch's fused form, one kernel for all weights."""
    parameters = list(parameters)
    fused = True if all(parameter.is_cuda for parameter in parameters) else None
    if config.optimizer == "sgd":
        return torch.optim.SGD(
            parameters,
            config.lr,
            momentum=config.momentum,
            nesterov=config.momentum > 0,
            weight_decay=config.weight_decay,
            fused=fused,
        )
    kind = torch.optim.AdamW if config.optimizer == "adamw" else torch.optim.Adam
    return kind(parameters, config.lr, weight_decay=config.weight_decay, fused=fused)


def load_optimizer(optimizer: torch.optim.Optimizer, saved: dict[str, Any]) -> None:
    """Continue from a saved state, which another kind of device or another memory format may have written.

    Fused or not is this machine's choice; and a fused step wants its moments in the layout of their weights.
    """
    groups = zip(saved["param_groups"], optimizer.param_groups, strict=True)
    optimizer.load_state_dict(saved | {"param_groups": [old | {"fused": own["fused"]} for old, own in groups]})
    for parameter, state in optimizer.state.items():
        for key, value in state.items():
            if isinstance(value, Tensor) and value.shape == parameter.shape and value.stride() != parameter.stride():
                state[key] = torch.empty_like(parameter).copy_(value)


def build_schedule(config: TrainConfig, optimizer: torch.optim.Optimizer) -> lr_scheduler.LRScheduler:
    """Stepped once an epoch: a linear warm-up, then the chosen decay over the remaining epochs."""
    remaining = max(config.epochs - config.warmup_epochs, 1)
    decay: lr_scheduler.LRScheduler
    if config.schedule == "cosine":
        decay = lr_scheduler.CosineAnnealingLR(optimizer, remaining)
    elif config.schedule == "poly":
        decay = lr_scheduler.PolynomialLR(optimizer, remaining, power=0.9)
    elif config.schedule == "step":
        decay = lr_scheduler.StepLR(optimizer, config.step_epochs, 0.1)
    else:
        decay = lr_scheduler.ConstantLR(optimizer, 1.0, 1)
    if not config.warmup_epochs:
        return decay
    warmup = lr_scheduler.LinearLR(optimizer, 1 / (config.warmup_epochs + 1), total_iters=config.warmup_epochs)
    return lr_scheduler.SequentialLR(optimizer, [warmup, decay], [config.warmup_epochs])


def build_scaler(config: TrainConfig, device: torch.device) -> torch.amp.GradScaler:
    """Loss scaling for fp16; does nothing otherwise."""
    fp16 = precision_of(config, device) == "fp16"
    if fp16 and device.type != "cuda":
        raise ConfigError("train.precision: fp16 needs a CUDA device; use bf16 or fp32 on the CPU")
    return torch.amp.GradScaler(device.type, enabled=fp16)
