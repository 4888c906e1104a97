"""Calibrators: maps of logits that are fitted after training, on held-out cases.

    calibrator = build("temperature", num_classes=4).fit(logits, labels)      # held-out voxels
    probs = calibrator(new_logits).softmax(1)                                 # (B, C, *S)

What a name means everywhere in here: `logits` (B, C, *S) float, S the axes of space in array order; `labels` (B, *S)
integers in 0..C-1; `images` (B, M, *S), for methods that look at them; `num_classes` C, background included. A
constructor raises ValueError for an option out of range.

To add one: a class in its own file, and one line in CALIBRATORS.
"""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import Any

from medcalib.calibrators.affine import Dirichlet, Matrix, Vector
from medcalib.calibrators.calibrator import Calibrator, read
from medcalib.calibrators.classwise_temperature import ClasswiseTemperature
from medcalib.calibrators.ensemble_temperature import EnsembleTemperature
from medcalib.calibrators.focal_temperature import FocalTemperature
from medcalib.calibrators.histogram import Histogram
from medcalib.calibrators.isotonic import Isotonic
from medcalib.calibrators.local_temperature import LocalTemperature
from medcalib.calibrators.region_temperature import RegionTemperature
from medcalib.calibrators.temperature import Temperature
from medcalib.calibrators.voxels import Voxels
from medcalib.errors import CheckpointError
from medcalib.options import check_option, suggestion

__all__ = ["CALIBRATORS", "Calibrator", "Voxels", "build", "load", "names", "parameters"]

CALIBRATORS: dict[str, type[Calibrator]] = {
    "temperature": Temperature,
    "classwise_temperature": ClasswiseTemperature,
    "region_temperature": RegionTemperature,
    "focal_temperature": FocalTemperature,
    "ensemble_temperature": EnsembleTemperature,
    "local_temperature": LocalTemperature,
    "vector": Vector,
    "matrix": Matrix,
    "dirichlet": Dirichlet,
    "isotonic": Isotonic,
    "histogram": Histogram,
}


def names() -> list[str]:
    """The methods that `build` knows."""
    return list(CALIBRATORS)


def parameters(name: str) -> dict[str, inspect.Parameter]:
    """The options of a method: keyword-only parameters of its constructor, annotations resolved.

    Raises ValueError for an unknown name.
    """
    if name not in CALIBRATORS:
        raise ValueError(f"unknown calibrator {name!r}; {suggestion(name, CALIBRATORS)}")
    signature = inspect.signature(CALIBRATORS[name], eval_str=True)
    return {key: p for key, p in signature.parameters.items() if p.kind is p.KEYWORD_ONLY}


def build(name: str, num_classes: int, **options: Any) -> Calibrator:
    """An unfitted calibrator for `num_classes` classes (background included).

    Options are those of `parameters(name)`. Raises ValueError for an unknown name, an unknown option or a value out
    of range.
    """
    known = parameters(name)
    check_option("num_classes", num_classes, int)
    unknown = sorted(options.keys() - known.keys())
    if unknown:
        raise ValueError(f"{name} has no option {', '.join(unknown)}; it has {', '.join(known) or 'none'}")
    for key, value in options.items():
        check_option(key, value, known[key].annotation)
    return CALIBRATORS[name](num_classes, **options)


def load(path: Path) -> Calibrator:
    """Read what `Calibrator.save` wrote.

    `path` is a file. Raises `CheckpointError` for one that is damaged or of another method than this version knows.
    """
    meta, stored = read(path)
    try:
        calibrator = build(meta["method"], meta["num_classes"], **meta.get("options", {}))
        calibrator.set_parameters(stored)
        calibrator.facts = dict(meta["facts"])
    except (AttributeError, KeyError, TypeError) as error:
        told = f"{path} is no calibrator of this version: its description is incomplete; fit it again with `calibrate`"
        raise CheckpointError(told) from error
    except (ValueError, RuntimeError) as error:
        raise CheckpointError(
            f"{path} is no calibrator of this version: {error}; fit it again with `calibrate`"
        ) from error
    return calibrator
