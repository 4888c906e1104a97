"""The evaluation of the average calibration losses (mL1-ACE): whole volume, class by class, macro and micro."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

from medcalib.metrics.protocols.given import HIDDEN, Bins, Given, Numbers, average, mean_of
from medcalib.metrics.protocols.monai import BINS, errors, monai_bins

DEFINITION = """cai4cai/Average-Calibration-Losses (T. Barfoot et al., arXiv 2506.03942): the probability of each
foreground class against its label over all voxels, 20 bins as in `monai`; macro_* is the mean over classes and cases.
micro_* pools bins over cases as that code does: the bin's confidence is the unweighted mean of the cases' means, its
frequency is weighted by voxels. dice is MONAI's MeanDice at p >= 0.5, left out where the reference lacks the class.
Where channels named ET, TC and WT exist, they are scored, with added softmax probabilities. The authors score the
cropped and resampled volume; here it is the label's grid."""
PARTS = ("n", "confidence", "frequency")


def case(given: Given) -> Numbers:
    """Dice, ECE, ACE and MCE of each class and their means over classes, and the bins that the micro scores pool."""
    found: Numbers = {}
    rows: dict[str, dict[str, float | None]] = {}
    for k in given.structures():
        p, hits = given.of(k)
        bins = monai_bins(p, hits)
        rows[given.channels.names[k]] = {"dice": _dice(p >= 0.5, hits), **_named(errors(bins), "macro_")}
        found |= _stored(given.channels.names[k], bins)
    for key in ("dice", "macro_ece", "macro_ace", "macro_mce"):
        found[key] = average(row[key] for row in rows.values())
        found |= {f"{key}/{name}": row[key] for name, row in rows.items()}
    return found


def mean(cases: Sequence[Numbers]) -> Numbers:
    """Means over cases, and the micro scores of the pooled bins: of each class, and their mean."""
    keys = dict.fromkeys(key for numbers in cases for key in numbers)
    found = {key: mean_of(cases, key) for key in keys if not key.startswith(HIDDEN)}
    names = list(dict.fromkeys(key.split("/", 3)[3] for key in keys if key.startswith(HIDDEN)))
    rows = {name: _named(errors(_pooled(cases, name)), "micro_") for name in names}
    for key in ("micro_ece", "micro_ace", "micro_mce"):
        found[key] = average(row[key] for row in rows.values())
        found |= {f"{key}/{name}": row[key] for name, row in rows.items()}
    return found


def _pooled(cases: Sequence[Numbers], name: str) -> Bins:
    """Bins over cases: confidences averaged over the cases that have any, frequencies weighted by voxels."""
    held = [numbers for numbers in cases if f"{HIDDEN}n/0/{name}" in numbers]
    n, confidence, frequency = (
        np.array([[numbers[f"{HIDDEN}{part}/{b}/{name}"] for b in range(BINS)] for numbers in held], np.float64)
        for part in PARTS
    )
    filled = (n > 0).sum(0)
    total = n.sum(0)
    with np.errstate(invalid="ignore"):
        pooled = np.nansum(confidence, 0) / filled, np.nansum(n * frequency, 0) / total
    return Bins(*map(torch.from_numpy, (total, *pooled)))


def _stored(name: str, bins: Bins) -> Numbers:
    values = {part: getattr(bins, part).tolist() for part in PARTS}
    return {
        f"{HIDDEN}{part}/{b}/{name}": None if value != value else value
        for part, row in values.items()
        for b, value in enumerate(row)
    }


def _named(values: Mapping[str, float | None], prefix: str) -> dict[str, float | None]:
    return {f"{prefix}{key}": value for key, value in values.items()}


def _dice(predicted: Tensor, reference: Tensor) -> float | None:
    if not reference.any():
        return None
    return 2 * int((predicted & reference).sum()) / int(predicted.sum() + reference.sum())
