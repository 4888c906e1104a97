"""Some planes of a case, and the values of every map there."""

from __future__ import annotations

from collections.abc import Callable
from math import log
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.special import entr

from medcalib.data.labels import IGNORE
from medcalib.data.predictions import Compared
from medcalib.errors import DataError
from medcalib.metrics.slabs import probabilities, winner
from medcalib.report.maps.channels import Channel

Array = NDArray[Any]


class Slab:
    """Prediction p (C, i, j, n), reference (i, j, n), and of exclusive classes the winner and what follows from it."""

    def __init__(self, compared: Compared, part: slice, values: NDArray[np.float32]) -> None:
        self.part = part
        self.label = compared.label[..., part]
        self.valid: NDArray[np.bool_] = self.label != IGNORE
        self.posterior = None if compared.posterior is None else compared.posterior[..., part]
        try:
            flat = torch.from_numpy(values.reshape(len(values), -1))
            self.p: Array = probabilities(flat, compared.activation).numpy().reshape(values.shape)
        except ValueError as error:
            raise DataError("bad_probabilities", f"{compared.case.id}: {error}") from error
        if compared.groups is None:
            self.predicted: NDArray[np.uint8] = winner(torch.from_numpy(self.p)).numpy()
            self.confidence: Array = self.p.max(0)
            self.wrong: NDArray[np.bool_] = (self.predicted != self.label) & self.valid

    def confusion(self, classes: int) -> NDArray[np.int64]:
        """Counts (C, C) of the valid voxels, reference x prediction."""
        pairs = self.label[self.valid].astype(np.intp) * classes + self.predicted[self.valid]
        counts: NDArray[np.int64] = np.bincount(pairs, minlength=classes**2).reshape(classes, classes)
        return counts

    def probability(self, channel: Channel) -> Array:
        """The probability of a channel; of a union, the sum over its classes, at most 1."""
        first, *others = channel.sources
        added: Array = self.p[[first, *others]].sum(0, dtype=np.float64).clip(max=1.0) if others else self.p[first]
        return added

    def hit(self, channel: Channel) -> NDArray[np.bool_]:
        """Where the reference is of the channel."""
        found: NDArray[np.bool_] = np.isin(self.label, channel.members)
        return found


def _entropy(at: Slab) -> Array:
    total: Array = sum(entr(p) for p in at.p)  # class by class: no second copy of the slab
    normalized: Array = (total / log(len(at.p))).clip(max=1.0)
    return normalized


def _true_gap(at: Slab) -> Array:
    gap: Array = at.confidence - np.take_along_axis(_known(at), at.predicted[None].astype(np.intp), 0)[0]
    return gap


def _true_gap_of(at: Slab, channel: Channel) -> Array:
    gap: Array = at.probability(channel) - _known(at)[list(channel.members)].sum(0)
    return gap


def _known(at: Slab) -> Array:
    if at.posterior is None:
        raise ValueError("the true gap needs a known posterior")
    return at.posterior


# what each map shows (i, j, n); of a gap, what its window is to average
CASE_VALUES: dict[str, Callable[[Slab], Array]] = {
    "confidence": lambda at: at.confidence,
    "entropy": _entropy,
    "error": lambda at: at.wrong,
    "gap": lambda at: at.confidence - ~at.wrong,
    "true_gap": _true_gap,
    "label": lambda at: at.label,
    "prediction": lambda at: at.predicted,
}
CHANNEL_VALUES: dict[str, Callable[[Slab, Channel], Array]] = {
    "probability": lambda at, channel: at.probability(channel),
    "gap": lambda at, channel: at.probability(channel) - at.hit(channel),
    "error": lambda at, channel: ((at.probability(channel) > 0.5) != at.hit(channel)) & at.valid,
    "true_gap": _true_gap_of,
}
