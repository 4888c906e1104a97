"""The evaluation of the margin losses (MbLS, NACL, CRaC) on medical volumes."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.ndimage import binary_erosion, distance_transform_edt, find_objects, generate_binary_structure
from torch import Tensor

from medcalib.metrics.protocols.given import Given, Numbers, average, binned, mean_of, right_bins
from medcalib.metrics.slabs import winner
from medcalib.ops import neighborhood_proportions

BINS = 15
THRESHOLD = 1e-3
FLOOR = float(np.finfo(np.float32).tiny)
DEFINITION = """Bala93/MarginLoss and Bala93/CRac, CalibSegmentEvaluator (2023 on), one volume a case. Calibration over
voxels that are foreground in the reference: ece (top label), cece (each class 0 .. largest label of the volume, whose
mean it is) and tcece (the same over p > 0.001) in 15 bins (low, high], p = 0 in none; aece in bins between quantiles of
the confidence; nll; soft_brier against the class proportions of the 3 x 3 window in the plane of the first two axes.
dsc and hd95 (medpy: 95th percentile of the distances of both surfaces together, in voxels) of each foreground class
over the volume; a class that the reference lacks has dsc 1 and hd95 0 even with false positives, one that is not
predicted hd95 0. Where channels named ET, TC and WT exist, dsc and hd95 are theirs. ece, cece, aece, nll, tcece and dsc
are rounded to 4 decimals for each case; then plain means over cases. A probability of 0 counts as the smallest
float32 in nll; fewer than 2 foreground voxels, where their code stops, give null."""
KEYS = ("ece", "cece", "aece", "nll", "tcece", "soft_brier", "dsc", "hd95")


def case(given: Given) -> Numbers:
    """The rounded numbers of one volume; empty for sigmoid channels."""
    if given.channels.binary:
        return {}
    found: Numbers = {**dict.fromkeys(KEYS), **_calibration(given)}
    winners = winner(given.probs)
    rows = {}
    for k in given.structures():
        pair = [(given.inside(volume, k) & given.valid).numpy() for volume in (winners, given.labels)]
        rows[given.channels.names[k]] = _shape_scores(pair[0], pair[1])
    for place, key in enumerate(("dsc", "hd95")):
        found[key] = average(row[place] for row in rows.values())
        found |= {f"{key}/{name}": row[place] for name, row in rows.items()}
    return found


def mean(cases: Sequence[Numbers]) -> Numbers:
    """Mean over cases; classes alike."""
    return {key: mean_of(cases, key) for key in dict.fromkeys(key for numbers in cases for key in numbers)}


def _calibration(given: Given) -> Numbers:
    kept = given.valid & (given.labels > 0)
    p, labels = given.probs[:, kept], given.labels[kept].long()
    if labels.numel() < 2:
        return {}
    confidence, predicted = p.max(0)
    hits = predicted == labels
    equal = torch.linspace(0, 1, BINS + 1)
    classes = range(int(labels.max()) + 1)
    true = p.gather(0, labels[None])[0].double().clamp(min=FLOOR)
    values = {
        "ece": _error(confidence, hits, equal),
        "cece": average(_error(p[k], labels == k, equal) for k in classes),
        "aece": _error(confidence, hits, _quantiles(confidence)),
        "nll": float(-true.log().mean()),
        "tcece": average(_thresholded(p[k], labels == k, equal) for k in classes),
    }
    rounded: Numbers = {key: None if value is None else float(np.round(value, 4)) for key, value in values.items()}
    return rounded | {"soft_brier": _soft_brier(given, kept)}


def _soft_brier(given: Given, kept: Tensor) -> float:
    """Mean over the kept voxels of the squared distance to the class proportions in their plane, slice by slice."""
    total = 0.0
    for k in range(given.labels.shape[2] if given.labels.ndim > 2 else 1):
        plane, inside, p = ((v[..., k] if given.labels.ndim > 2 else v) for v in (given.labels, kept, given.probs))
        shares = neighborhood_proportions(
            plane[None].long(), p.shape[0], padding="background", ignore_index=given.ignore_index, dtype=torch.float64
        )[0]
        total += float((p[:, inside].double() - shares[:, inside]).square().sum())
    return total / int(kept.sum())


def _error(p: Tensor, hits: Tensor, edges: Tensor) -> float:
    return binned(p, hits, right_bins(p, edges), BINS).expected(p.numel())


def _thresholded(p: Tensor, hits: Tensor, edges: Tensor) -> float:
    kept = p > THRESHOLD
    return _error(p[kept], hits[kept], edges) if kept.any() else 0.0


def _quantiles(confidence: Tensor) -> Tensor:
    """Bin edges at equal ranks, interpolated between the sorted values."""
    ranks = np.linspace(0, confidence.numel(), BINS + 1)
    sorted_values = np.sort(confidence.numpy())
    return torch.from_numpy(np.interp(ranks, np.arange(confidence.numel()), sorted_values))


def _shape_scores(predicted: NDArray[np.bool_], reference: NDArray[np.bool_]) -> tuple[float, float]:
    """DSC, rounded, and HD95 in voxels."""
    if not reference.any():
        return 1.0, 0.0
    if not predicted.any():
        return 0.0, 0.0
    dice = 2 * np.count_nonzero(predicted & reference) / (np.count_nonzero(predicted) + np.count_nonzero(reference))
    box = find_objects((predicted | reference).astype(np.uint8))[0]
    first, second = (mask[box] ^ _eroded(mask[box]) for mask in (predicted, reference))
    both = [distance_transform_edt(~second)[first], distance_transform_edt(~first)[second]]
    return float(np.round(dice, 4)), float(np.percentile(np.hstack(both), 95))


def _eroded(mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    inner: NDArray[np.bool_] = binary_erosion(mask, generate_binary_structure(mask.ndim, 1))
    return inner
