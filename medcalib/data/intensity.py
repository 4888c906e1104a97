"""Intensity normalization: MONAI's transforms under the names that configs use. All compute in float32."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any

Normalize = Callable[[Any], Any]


def zscore(
    *, nonzero: Annotated[bool, "mean and std of voxels that are not 0 (skull-stripped MR)"] = False
) -> Normalize:
    """(x - mean) / std of each channel; `nonzero` takes both over voxels that are not 0 (skull-stripped MR)."""
    from monai.transforms import NormalizeIntensity

    normalize: Normalize = NormalizeIntensity(nonzero=nonzero, channel_wise=True)
    return normalize


def window(*, low: Annotated[float, "becomes -1, in HU for CT"], high: Annotated[float, "becomes 1"]) -> Normalize:
    """Clip to [low, high] (Hounsfield units for CT) and map to [-1, 1]."""
    if low >= high:
        raise ValueError(f"low must be below high, got {low} and {high}")
    from monai.transforms import ScaleIntensityRange

    normalize: Normalize = ScaleIntensityRange(low, high, -1.0, 1.0, clip=True)
    return normalize


def percentile(
    *,
    low: Annotated[float, "percentile that becomes -1"] = 0.5,
    high: Annotated[float, "percentile that becomes 1"] = 99.5,
) -> Normalize:
    """Clip each channel to its percentiles and map to [-1, 1]."""
    if not 0 <= low < high <= 100:
        raise ValueError(f"low and high must satisfy 0 <= low < high <= 100, got {low} and {high}")
    from monai.transforms import ScaleIntensityRangePercentiles

    normalize: Normalize = ScaleIntensityRangePercentiles(low, high, -1.0, 1.0, clip=True, channel_wise=True)
    return normalize


INTENSITIES: dict[str, Callable[..., Normalize]] = {"zscore": zscore, "window": window, "percentile": percentile}
