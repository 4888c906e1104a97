"""Histogram binning of class probabilities."""

from __future__ import annotations

import torch
from torch import Tensor

from medcalib.calibrators.steps import MappedProbabilities
from medcalib.calibrators.voxels import Voxels


class Histogram(MappedProbabilities):
    """p_k becomes the frequency of class k among the fitted voxels whose p_k lies in the same of `bins` equal bins
    [lower, upper); the last holds 1, too. Rows are divided by their sum. A bin without a voxel gives 0.

    It may change the arg-max, and confidences take few values.

    Reference: B. Zadrozny and C. Elkan, Obtaining calibrated probability estimates from decision trees and naive
    Bayesian classifiers, ICML 2001; one-vs-rest as in netcal, which gives NaN where a row is 0.
    """

    name = "histogram"
    formula = "frequency_[k, floor(bins p_k)] + 1e-9 p_k, rows divided by their sum"
    reference = "B. Zadrozny and C. Elkan, ICML 2001"

    def __init__(self, num_classes: int, *, bins: int = 10) -> None:
        super().__init__(num_classes, bins=bins)
        if bins < 1:
            raise ValueError(f"bins must be 1 or more, got {bins}")
        self.frequency_: Tensor
        self.declare("frequency_", (num_classes, bins), low=0, high=1)

    def fit_voxels(self, voxels: Voxels) -> None:
        """Count."""
        bins, classes = self.options["bins"], self.num_classes
        counts = torch.zeros(2, classes * bins, dtype=torch.float64)
        for chunk in voxels.chunks():
            cell = (
                self._bin(chunk.logits.softmax(0)) + bins * torch.arange(classes, device=chunk.labels.device)[:, None]
            )
            counts[0] += torch.bincount(cell.flatten(), minlength=classes * bins).cpu()
            hits = cell.gather(0, chunk.labels[None])[0]
            counts[1] += torch.bincount(hits, minlength=classes * bins).cpu()
        self.frequency_ = (counts[1] / counts[0].clamp(min=1)).reshape(classes, bins)

    def mapped(self, k: int, probs: Tensor) -> Tensor:
        """The frequency of the bin of each probability."""
        return self.frequency_[k][self._bin(probs)]

    def _bin(self, probs: Tensor) -> Tensor:
        edges = torch.linspace(0, 1, self.options["bins"] + 1, dtype=torch.float64, device=probs.device)
        return torch.bucketize(probs.contiguous(), edges[1:-1], right=True)
