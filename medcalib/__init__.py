"""medcalib: train, measure and repair the calibration of 3D medical image segmentation.

    import medcalib
    objective = medcalib.losses.build("mbls", num_classes=4)      # a loss for any trainer
    counts = medcalib.metrics.CalibrationCounts.from_probs(probs, labels)
    counts.ece(bins=15)

Sub-packages are imported on first use, so that `import medcalib` is quick and needs no torch.
"""

from __future__ import annotations

from medcalib.lazy import lazily

__version__ = "0.1.0"
__all__ = [
    "__version__",
    "calibrators",
    "config",
    "data",
    "engine",
    "errors",
    "integrations",
    "losses",
    "metrics",
    "ops",
    "report",
]

__getattr__ = lazily(__name__, __all__)


def __dir__() -> list[str]:
    return sorted(__all__)
