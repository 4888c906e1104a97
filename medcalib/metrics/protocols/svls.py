"""The calibration metrics of spatially varying label smoothing."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from medcalib.metrics.protocols.given import Given, Numbers, average, binned, mean_of, number, right_bins

BINS = 10
THRESHOLD = 1e-3
DEFINITION = """mobarakol/SVLS, calibration_metrics.py (M. Islam, B. Glocker, IPMI 2021): ece is of the top label, 10
bins (low, high], over voxels that are foreground in the reference; tace is of each foreground class over all voxels
with p > 0.001, sorted and cut into 10 bins of equal number (the last takes the rest), its gaps weighted by voxels and
then divided by 10 (their code takes the mean over bins of terms that already sum to the error), mean over classes.
Equal probabilities keep the order of voxels. Their repository does not show how cases are joined; here: their mean."""


def case(given: Given) -> Numbers:
    """ECE, TACE, and the TACE of each class; None where the authors' code divides by 0. Empty for sigmoid channels."""
    if given.channels.binary:
        return {}
    names = given.channels.names
    found: Numbers = {"ece": _ece(given)}
    per_class = {names[k]: _tace(*given.of(k)) for k in range(1, given.channels.num_classes)}
    found["tace"] = average(per_class.values()) if None not in per_class.values() else None
    return found | {f"tace/{name}": value for name, value in per_class.items()}


def mean(cases: Sequence[Numbers]) -> Numbers:
    """Mean over cases."""
    return {key: mean_of(cases, key) for key in dict.fromkeys(key for numbers in cases for key in numbers)}


def _ece(given: Given) -> float | None:
    kept = given.valid & (given.labels > 0)
    confidence, predicted = given.probs[:, kept].max(0)
    if not confidence.numel():
        return None
    index = right_bins(confidence, torch.linspace(0, 1, BINS + 1, dtype=torch.float64))
    return number(binned(confidence, predicted == given.labels[kept], index, BINS).expected())


def _tace(p: Tensor, hits: Tensor) -> float | None:
    order = p.argsort(stable=True)
    order = order[p[order] > THRESHOLD]
    size = len(order) // BINS
    if not size:
        return None
    index = (torch.arange(len(order)) // size).clamp(max=BINS - 1)
    return number(binned(p[order], hits[order], index, BINS).expected() / BINS)
