"""Grid search over temperatures, as the official codes do: NLL and top-label ECE at every value."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from medcalib.calibrators.voxels import Voxels

ECE_VOXELS = 1 << 18  # an ECE needs all confidences at once, sorted; more voxels would change its third digit
BINS = 15


class GridScores(NamedTuple):
    """NLL in nats and ECE at each temperature, float64."""

    nll: NDArray[np.float64]
    ece: NDArray[np.float64]


def steps(step: float, count: int) -> list[float]:
    """step, 2 step, ... added up one by one, as the official loops do."""
    return [float(value) for value in np.cumsum(np.full(count, step))]


def by_grid(
    voxels: Voxels, log_probs: Callable[[Tensor, float], Tensor], grid: Sequence[float], *, mass: bool
) -> GridScores:
    """Scores of log_probs(logits (C, n), T) -> (C, n) at every T of `grid`, on at most 2^18 voxels.

    `mass`: bins of equal mass for the ECE, else of equal width.
    """
    chosen = voxels.sample(ECE_VOXELS)
    chunks = list(chosen.chunks())
    error = ece_equal_mass if mass else ece_equal_width
    nll, ece = [], []
    for temperature in grid:
        lost, confidences, hits = 0.0, [], []
        for chunk in chunks:
            log_p = log_probs(chunk.logits, temperature)
            lost -= float(log_p.gather(0, chunk.labels[None]).sum())
            top, predicted = log_p.max(0)
            confidences.append(top.exp())
            hits.append(predicted == chunk.labels)
        nll.append(lost / chosen.total)
        ece.append(error(torch.cat(confidences).cpu().numpy(), torch.cat(hits).cpu().numpy()))
    return GridScores(np.array(nll), np.array(ece))


def ece_equal_width(confidence: NDArray[np.float64], hit: NDArray[np.bool_], bins: int = BINS) -> float:
    """sum_b n_b/N |mean confidence - accuracy| over `bins` bins (lower, upper] of equal width."""
    return _ece(confidence, hit, np.linspace(0, 1, bins + 1))


def ece_equal_mass(confidence: NDArray[np.float64], hit: NDArray[np.bool_], bins: int = BINS) -> float:
    """The same over bins that hold equally many voxels, their edges interpolated between sorted confidences."""
    n = len(confidence)
    ordered = np.sort(confidence)
    return _ece(confidence, hit, np.interp(np.linspace(0, n, bins + 1), np.arange(n), ordered))


def _ece(confidence: NDArray[np.float64], hit: NDArray[np.bool_], edges: NDArray[np.float64]) -> float:
    index = np.searchsorted(edges, confidence, side="left") - 1
    inside = (index >= 0) & (index < len(edges) - 1)
    gap = np.bincount(index[inside], (confidence - hit)[inside], len(edges) - 1)
    return float(np.abs(gap).sum() / len(confidence))
