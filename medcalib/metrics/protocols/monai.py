"""MONAI's `CalibrationErrorMetric` with its defaults, computed exactly."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from medcalib.metrics.protocols.given import Bins, Given, Numbers, average, binned, mean_of, number

BINS = 20
DEFINITION = """monai.metrics.CalibrationErrorMetric (MONAI 1.6.1) with its defaults: each channel's probability, the
background's too, against its label over all voxels of the volume, 20 bins (edges at multiples of 1/20 times 1 + 2^-23,
closed above); ece weights gaps by voxels, ace averages the bins that hold any, mce is the largest; mean over channels,
then over cases. Counts are integers and sums float64, so that large volumes are exact: MONAI's float32 sums are not
(ECE up to 25 times too small)."""


def monai_bins(p: Tensor, hits: Tensor) -> Bins:
    """The bins of `monai.metrics.calibration_binning`: its own edges, values beyond the last in the last."""
    edges = torch.linspace(0.0, 1.0 + torch.finfo(torch.float32).eps, BINS + 1)
    index = torch.bucketize(p, edges[1:]).clamp(max=BINS - 1)
    return binned(p, hits, index, BINS)


def errors(bins: Bins) -> dict[str, float | None]:
    """ECE, ACE (mean over the bins that hold voxels) and MCE of one channel; None of no voxel."""
    if not bins.gaps().numel():
        return dict.fromkeys(("ece", "ace", "mce"))
    found: dict[str, Tensor | float] = {"ece": bins.expected(), "ace": bins.gaps().mean(), "mce": bins.gaps().max()}
    return {name: number(value) for name, value in found.items()}


def case(given: Given) -> Numbers:
    """ECE, ACE and MCE: mean over channels, and of each channel."""
    first = 1 if given.channels.binary else 0
    wanted = range(first, given.channels.num_classes)
    per_channel = {given.channels.names[k]: errors(monai_bins(*given.of(k))) for k in wanted}
    found: Numbers = {}
    for key in ("ece", "ace", "mce"):
        found[key] = average(values[key] for values in per_channel.values())
        found |= {f"{key}/{name}": values[key] for name, values in per_channel.items()}
    return found


def mean(cases: Sequence[Numbers]) -> Numbers:
    """Mean over cases."""
    return {key: mean_of(cases, key) for key in dict.fromkeys(key for numbers in cases for key in numbers)}
