"""Sliding-window inference of one preprocessed volume."""

from __future__ import annotations

from collections.abc import Callable

import torch
from monai.inferers import sliding_window_inference
from torch import Tensor, nn

from medcalib.config import RunConfig
from medcalib.data.transforms import plain


def window_logits(model: nn.Module, image: Tensor, config: RunConfig, device: torch.device) -> Tensor:
    """Logits (C, *S) float32 on the CPU for image (M, *S). Overlapping windows are averaged as logits.

    Volumes are stitched on the CPU, so that a large one does not need to fit on the GPU.
    """
    predict = config.predict
    forward: Callable[[Tensor], Tensor] = model
    precision = {"bf16": torch.bfloat16, "fp16": torch.float16}.get(config.train.precision)
    model.eval()
    with torch.inference_mode(), torch.autocast(device.type, precision, enabled=precision is not None):
        logits = sliding_window_inference(
            image[None],
            config.train.patch_size,
            predict.batch_size,
            lambda window: forward(window).float(),
            overlap=predict.overlap,
            mode=predict.blend,
            sw_device=device,
            device=torch.device("cpu"),
            cval=float(image.min()),  # as in training: outside the volume is no tissue
        )
    return plain(logits)[0]
