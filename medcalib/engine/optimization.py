"""Optimizers, learning-rate schedules and loss scaling, all torch's."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import nn
from torch.optim import lr_scheduler

from medcalib.config import TrainConfig
from medcalib.errors import ConfigError


def build_optimizer(config: TrainConfig, parameters: Iterable[nn.Parameter]) -> torch.optim.Optimizer:
    """AdamW, Adam or SGD with Nesterov momentum."""
    if config.optimizer == "sgd":
        return torch.optim.SGD(
            parameters,
            config.lr,
            momentum=config.momentum,
            nesterov=config.momentum > 0,
            weight_decay=config.weight_decay,
        )
    kind = torch.optim.AdamW if config.optimizer == "adamw" else torch.optim.Adam
    return kind(parameters, config.lr, weight_decay=config.weight_decay)


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
    if config.precision == "fp16" and device.type != "cuda":
        raise ConfigError("precision 'fp16' needs a CUDA device; use bf16 or fp32 on the CPU")
    return torch.amp.GradScaler(device.type, enabled=config.precision == "fp16")
