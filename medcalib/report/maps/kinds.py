"""What the maps are: their definitions, types, and the range that a viewer spans first."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from medcalib.data.nifti import About
from medcalib.errors import ConfigError
from medcalib.options import suggestion

GAP_RANGE = 0.5  # the page's colors of a gap end here too
BACKGROUND, BOUNDARY, FOREGROUND = 0, 1, 2
MARK = "medcalib "  # headers of maps begin with it


@dataclass(frozen=True)
class Kind:
    """A map: its definition, what its header says (ASCII), its values `low` to `high`, whether they are indices.

    `high` None: the last class.
    """

    text: str
    brief: str
    low: float = 0.0
    high: float | None = 1.0
    indices: bool = False

    @property
    def dtype(self) -> Any:
        """The stored type: bytes for indices, else float32."""
        return np.uint8 if self.indices else np.float32

    def about(self, *, classes: int, detail: str = "", channel: str = "") -> About:
        """What the header says of this map of a volume with so many classes."""
        text = f"{MARK}{self.brief}{f', {detail}' if detail else ''}{f', of {channel}' if channel else ''}"
        high = max(1, classes - 1) if self.high is None else self.high
        return About(text, self.low, high, "label" if self.indices else "estimate")


KINDS: dict[str, Kind] = {
    "confidence": Kind("largest class probability, 0 to 1", "confidence: largest class probability"),
    "entropy": Kind(
        "predictive entropy, -sum p ln p over the C classes divided by ln C: 0 is certain, 1 is uniform",
        "entropy: -sum p ln p / ln C",
    ),
    "error": Kind(
        "1 where the most probable class is not the reference", "error: 1 where prediction is not label", indices=True
    ),
    "gap": Kind(
        "mean confidence minus accuracy in a window around the voxel: above 0 is overconfident",
        "gap: mean confidence - accuracy",
        -GAP_RANGE,
        GAP_RANGE,
    ),
    "true_gap": Kind(
        "confidence minus the known posterior of the predicted class (phantoms)",
        "true_gap: confidence - true posterior",
        -GAP_RANGE,
        GAP_RANGE,
    ),
    "label": Kind("reference as class indices, 255 ignored", "label: reference class", high=None, indices=True),
    "prediction": Kind("most probable class", "prediction: most probable class", high=None, indices=True),
    "region": Kind(
        "by the reference, as the region `boundary` of the scores: 0 background interior, 1 within boundary_mm of a "
        "surface between two labels, on both sides, 2 foreground interior, 255 ignored",
        "region: 0 background, 1 boundary, 2 foreground",
        high=FOREGROUND,
        indices=True,
    ),
}
CHANNEL_KINDS: dict[str, Kind] = {
    "probability": Kind("probability of the class, 0 to 1; of a union, the sum over its classes", "probability"),
    "gap": Kind(
        "mean probability of the class minus its share of the reference in the window: above 0, it is predicted more "
        "confidently than it occurs",
        "gap: mean probability - share of label",
        -GAP_RANGE,
        GAP_RANGE,
    ),
    "error": Kind(
        "independent regions only: 1 where [p > 0.5] is not the reference",
        "error: 1 where [p > 0.5] is not label",
        indices=True,
    ),
    "true_gap": Kind(
        "probability minus the known posterior of the class (phantoms)",
        "true_gap: probability - true posterior",
        -GAP_RANGE,
        GAP_RANGE,
    ),
}
WINDOWED = "gap"  # the kind that looks at a window
OF_TOP_LABEL = ("confidence", "entropy", "error", "gap", "true_gap", "prediction")  # need exclusive classes
OF_COMPLETE_LABELS = ("error", "gap")  # need every class annotated


def checked_kinds(names: Sequence[str] | None) -> tuple[str, ...]:
    """Names of maps, each once; None or `all` is every one. Raises `ConfigError` for an unknown name."""
    if names is None or tuple(names) == ("all",):
        return tuple(KINDS)
    for name in names:
        if name not in KINDS:
            raise ConfigError(f"unknown map {name!r}; {suggestion(name, list(KINDS))}")
    if not names:
        raise ConfigError(f"expected the names of maps, got none; known: {', '.join(KINDS)}")
    return tuple(name for name in KINDS if name in names)
