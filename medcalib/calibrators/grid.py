"""Grid search over temperatures, as the official codes do: NLL and top-label ECE at every value."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from medcalib.calibrators.voxels import Voxels, predicted

ECE_VOXELS = 1 << 18  # an ECE needs all confidences at once, sorted; more voxels would change its third digit
BINS = 15


Criterion = Literal["nll", "ece"]


def steps(step: float, count: int) -> list[float]:
    """step, 2 step, ... added up one by one, as the official loops do."""
    return [float(value) for value in np.cumsum(np.full(count, step))]


def by_grid(
    voxels: Voxels,
    log_probs: Callable[[Tensor, float], Tensor],
    grid: Sequence[float],
    criterion: Criterion,
    *,
    mass: bool,
) -> NDArray[np.float64]:
    """NLL in nats or ECE of log_probs(logits (C, n), T) -> (C, n) at every T of `grid`, on at most 2^18 voxels.

    `mass`: bins of equal mass for the ECE, else of equal width.
    """
    chosen = voxels.sample(ECE_VOXELS)
    chunks = list(chosen.chunks())
    found = []
    for temperature in grid:
        log_ps = (log_probs(chunk.logits, temperature) for chunk in chunks)
        pairs = ((log_p, chunk.labels) for log_p, chunk in zip(log_ps, chunks, strict=True))
        if criterion == "nll":
            found.append(-sum(float(log_p.gather(0, labels[None]).sum()) for log_p, labels in pairs) / chosen.total)
        else:
            found.append(_top_ece(pairs, mass=mass))
    return np.array(found)


def _top_ece(pairs: Iterable[tuple[Tensor, Tensor]], *, mass: bool) -> float:
    """ECE of the most probable class, of pairs of log-probabilities (C, n) and labels (n,)."""
    confidences, hits = [], []
    for log_p, labels in pairs:
        confidences.append(log_p.amax(0).exp().cpu().numpy())
        hits.append((predicted(log_p, 0) == labels).cpu().numpy())
    error = ece_equal_mass if mass else ece_equal_width
    return error(np.concatenate(confidences), np.concatenate(hits))


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
