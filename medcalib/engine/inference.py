"""Sliding-window inference of one preprocessed volume."""

from __future__ import annotations

import logging

import torch
from monai.inferers import sliding_window_inference
from torch import Tensor, nn

from medcalib.config import RunConfig
from medcalib.data.transforms import plain
from medcalib.engine.execution import autocast, images_on_device, placed, reproducible
from medcalib.errors import NoMemoryError

log = logging.getLogger(__name__)


def window_logits(model: nn.Module, image: Tensor, config: RunConfig, device: torch.device) -> Tensor:
    """Logits (C, *S) float32 on the CPU for image (M, *S). Overlapping windows are averaged as logits.

    The network runs in the precision and memory format of training; what it gives is float32 from there on.
    Volumes are stitched on the CPU, so that a large one does not need to fit on the GPU. Where the GPU has no room for
    `predict.batch_size` windows at once they are taken one by one, and the log says so. Raises `NoMemoryError` where
    not even one fits.
    """
    try:
        placed(model, config.train, device).eval()
        with reproducible(config.train):
            return _in_windows(model, image, config, device)
    except torch.OutOfMemoryError as error:
        size = " x ".join(map(str, config.train.patch_size))
        raise NoMemoryError(
            f"no memory for one window of {size} voxels on {device}; see what else uses the device, set "
            f"train.precision to bf16, or take the CPU (--device cpu). torch says: {str(error).partition(chr(10))[0]}"
        ) from error


def _in_windows(model: nn.Module, image: Tensor, config: RunConfig, device: torch.device) -> Tensor:
    at_once = config.predict.batch_size
    try:
        return _stitched(model, image, config, device, at_once)
    except torch.OutOfMemoryError:
        if at_once == 1:
            raise
        log.warning("no memory for %d windows at once: taken one by one", at_once)
    return _stitched(model, image, config, device, 1)


def _stitched(model: nn.Module, image: Tensor, config: RunConfig, device: torch.device, at_once: int) -> Tensor:
    predict = config.predict

    def forward(windows: Tensor) -> Tensor:
        logits: Tensor = model(images_on_device(windows, config.train, device))
        return logits.float().contiguous()

    with torch.inference_mode(), autocast(config.train, device):
        logits = sliding_window_inference(
            image[None],
            config.train.patch_size,
            at_once,
            forward,
            overlap=predict.overlap,
            mode=predict.blend,
            sw_device=device,
            device=torch.device("cpu"),
            cval=float(image.min()),  # as in training: outside the volume is no tissue
        )
    return plain(logits)[0]
