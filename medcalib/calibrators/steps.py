"""Shared by the methods that map each class probability by a function of itself: isotonic and histogram."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from medcalib.calibrators.calibrator import Calibrator

_TIE = math.log(1e-9)


class MappedProbabilities(Calibrator):
    """p'_k = f_k(p_k) + 1e-9 p_k, rows divided by their sum.

    The second part breaks ties in favor of what the network says, and keeps every probability above 0, so that a
    class that was never right in the data of the fit does not become impossible.
    """

    def map(self, logits: Tensor) -> Tensor:
        """ln p'."""
        log_p = logits.log_softmax(1)
        rows = log_p.exp().movedim(1, 0)
        mapped = torch.stack([self.mapped(k, row) for k, row in enumerate(rows)], 1)
        return torch.logaddexp(mapped.log(), log_p + _TIE).log_softmax(1)

    def mapped(self, k: int, probs: Tensor) -> Tensor:
        """f_k of probabilities of any shape, 0 to 1."""
        raise TypeError(f"{type(self).__name__} does not define mapped(k, probs)")
