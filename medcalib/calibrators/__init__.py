"""Calibrators: maps of logits that are fitted after training, on held-out cases."""

from __future__ import annotations

from pathlib import Path

from medcalib.calibrators.calibrator import Calibrator, read
from medcalib.calibrators.temperature import Temperature
from medcalib.errors import CheckpointError

__all__ = ["CALIBRATORS", "Calibrator", "build", "load", "names"]

CALIBRATORS: dict[str, type[Calibrator]] = {"temperature": Temperature}


def names() -> list[str]:
    """The methods that `build` knows."""
    return list(CALIBRATORS)


def build(name: str, num_classes: int) -> Calibrator:
    """An unfitted calibrator for `num_classes` classes (background included)."""
    if name not in CALIBRATORS:
        raise ValueError(f"unknown calibrator {name!r}; known: {', '.join(CALIBRATORS)}")
    return CALIBRATORS[name](num_classes)


def load(path: Path) -> Calibrator:
    """Read what `Calibrator.save` wrote."""
    meta, parameters = read(path)
    try:
        calibrator = build(meta["method"], int(meta["num_classes"]))
        calibrator.load_state_dict(parameters)
        calibrator.facts = dict(meta["facts"])
    except (KeyError, TypeError, ValueError, RuntimeError) as error:
        raise CheckpointError(f"{path} is no calibrator of this version: {error}") from error
    return calibrator
