"""How a network is run: its precision and memory format, compiled or not, and whether twice gives the same bits."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Literal, cast

import torch
from torch import Tensor, nn

from medcalib.config import TrainConfig

Precision = Literal["fp32", "bf16", "fp16"]
_DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}


def precision_of(config: TrainConfig, device: torch.device) -> Precision:
    """What `auto` comes to on the device: bf16 where a CUDA device has it in hardware, else fp32."""
    if config.precision != "auto":
        return config.precision
    return "bf16" if device.type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False) else "fp32"


def autocast(config: TrainConfig, device: torch.device) -> torch.autocast:
    """The context in which the network runs; losses and scores are computed outside of it, in float32."""
    dtype = _DTYPES.get(precision_of(config, device))
    return torch.autocast(device.type, dtype, enabled=dtype is not None)


def is_channels_last(config: TrainConfig, device: torch.device) -> bool:
    """What `auto` comes to on the device: cuDNN's 3-D convolutions of half precision want the channels last."""
    return device.type == "cuda" if config.channels_last == "auto" else config.channels_last


def placed(model: nn.Module, config: TrainConfig, device: torch.device) -> nn.Module:
    """The model itself, moved to the device and into the memory format of the config."""
    if is_channels_last(config, device):
        # torch takes it as a keyword alone, which its own annotations do not know
        return cast(nn.Module, cast(Any, model).to(device=device, memory_format=torch.channels_last_3d))
    return model.to(device)


def on_device(values: Tensor, device: torch.device) -> Tensor:
    """A copy on the device that pinned memory makes while the host goes on."""
    return values.to(device, non_blocking=True)


def images_on_device(images: Tensor, config: TrainConfig, device: torch.device) -> Tensor:
    """Images (B, M, i, j, k) on the device in the network's memory format, which the device itself brings about."""
    images = on_device(images, device)
    return images.contiguous(memory_format=torch.channels_last_3d) if is_channels_last(config, device) else images


def compiled(model: nn.Module, config: TrainConfig) -> nn.Module:
    """What training calls: the model, or a compiled form of it that shares its parameters.

    Weights are saved from the model, so that their names are the same either way. Shapes are fixed: a step sees one
    size of patch.
    """
    if not config.compile:
        return model
    return cast(nn.Module, torch.compile(model, dynamic=False))


@contextmanager
def reproducible(config: TrainConfig) -> Iterator[None]:
    """cuDNN's choice of algorithms within the block: always the same one, or the fastest of a trial at each new shape.

    Not covered: networks that upsample by interpolation (segresnet), whose gradient torch sums in no fixed order.
    """
    cudnn = torch.backends.cudnn
    before = cudnn.deterministic, cudnn.benchmark
    cudnn.deterministic, cudnn.benchmark = config.deterministic, not config.deterministic
    try:
        yield
    finally:
        cudnn.deterministic, cudnn.benchmark = before
