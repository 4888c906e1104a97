"""medcalib: train, measure and repair the calibration of 3D medical image segmentation.

    import medcalib
    objective = medcalib.losses.build("mbls", num_classes=4)      # a loss for any trainer
    counts = medcalib.metrics.CalibrationCounts.from_probs(probs, labels)
    counts.ece(bins=15)

Sub-packages are imported on first use, so that `import medcalib` is quick and needs no torch.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

__version__ = "0.1.0"
_PUBLIC = ("calibrators", "data", "losses", "metrics", "ops")
__all__ = ["__version__", *_PUBLIC]


def __getattr__(name: str) -> Any:
    if name in _PUBLIC:
        return import_module(f"{__name__}.{name}")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
