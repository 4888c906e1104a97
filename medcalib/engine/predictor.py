"""From a loaded case to logits and probabilities on the grid of its image."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from medcalib.calibrators import Calibrator
from medcalib.config import RunConfig
from medcalib.data.load import LoadedCase
from medcalib.data.transforms import Preprocess, plain, to_native
from medcalib.engine.inference import window_logits


@dataclass(frozen=True)
class Predictor:
    """A trained network with everything between a loaded case and its logits."""

    config: RunConfig
    model: nn.Module
    preprocess: Preprocess
    device: torch.device

    def logits(self, loaded: LoadedCase) -> Tensor:
        """Logits (C, i, j, k) float32 on the grid of the case's image."""
        item = self.preprocess(loaded)
        logits = window_logits(self.model, item["image"], self.config, self.device)
        return torch.from_numpy(to_native(logits, item["affine"], loaded.affine, loaded.image.shape[1:]))

    def normalized(self, loaded: LoadedCase) -> Tensor:
        """Intensities (M, i, j, k) as the network sees them, on the grid of the case's image."""
        image = torch.from_numpy(loaded.image.copy())  # MONAI normalizes in place
        return plain(self.preprocess.normalize(image)).float()

    def probs(self, loaded: LoadedCase, calibrator: Calibrator | None = None) -> NDArray[np.float32]:
        """Class probabilities (C, i, j, k) on the grid of the case's image, repaired by `calibrator`."""
        return self.repaired(self.logits(loaded), loaded, calibrator)

    def repaired(self, logits: Tensor, loaded: LoadedCase, calibrator: Calibrator | None) -> NDArray[np.float32]:
        """As `probs`, from the logits of the case."""
        if calibrator is not None:
            images = self.normalized(loaded)[None] if calibrator.image_channels else None
            logits = calibrator(logits[None], images)[0]
        probs: NDArray[np.float32] = logits.softmax(0).numpy()
        return probs
