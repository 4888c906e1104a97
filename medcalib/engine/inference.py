"""Sliding-window inference of one preprocessed volume."""

from __future__ import annotations

import logging
from collections.abc import Callable

import torch
from monai.inferers import sliding_window_inference
from torch import Tensor, nn

from medcalib.config import RunConfig
from medcalib.data.transforms import plain

log = logging.getLogger(__name__)


def window_logits(model: nn.Module, image: Tensor, config: RunConfig, device: torch.device) -> Tensor:
    """Logits (C, *S) float32 on the CPU for image (M, *S). Overlapping windows are averaged as logits.

    Volumes are stitched on the CPU, so that a large one does not need to fit on the GPU. Where the GPU has no room for
    `predict.batch_size` windows at once they are taken one by one, and the log says so.
    """
    model.eval()
    try:
        return _stitched(model, image, config, device, config.predict.batch_size)
    except torch.OutOfMemoryError:
        if config.predict.batch_size == 1:
            raise
        log.warning("no memory for %d windows at once: taken one by one", config.predict.batch_size)
    return _stitched(model, image, config, device, 1)


def _stitched(model: nn.Module, image: Tensor, config: RunConfig, device: torch.device, at_once: int) -> Tensor:
    predict = config.predict
    forward: Callable[[Tensor], Tensor] = model
    precision = {"bf16": torch.bfloat16, "fp16": torch.float16}.get(config.train.precision)
    with torch.inference_mode(), torch.autocast(device.type, precision, enabled=precision is not None):
        logits = sliding_window_inference(
            image[None],
            config.train.patch_size,
            at_once,
            lambda window: forward(window).float(),
            overlap=predict.overlap,
            mode=predict.blend,
            sw_device=device,
            device=torch.device("cpu"),
            cval=float(image.min()),  # as in training: outside the volume is no tissue
        )
    return plain(logits)[0]
