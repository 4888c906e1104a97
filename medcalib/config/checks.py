"""What one part of a config demands of another, and what constructors say of their options."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch

from medcalib.config.reader import KeyPath
from medcalib.config.schema import RunConfig
from medcalib.data.intensity import INTENSITIES
from medcalib.data.labels import convention_errors
from medcalib.data.layouts import LAYOUTS
from medcalib.data.splits import SPLITS
from medcalib.errors import DataRefusedError
from medcalib.networks import NETWORKS
from medcalib.ops.scoring import bin_of_cell

Finding = tuple[KeyPath, str]


def cross_checks(config: RunConfig) -> list[Finding]:
    """Every finding as (path, message); empty when the config is sound."""
    return [*_constructors(config), *_labels(config), *_class_names(config), *_patch(config)]


def _constructors(config: RunConfig) -> Iterator[Finding]:
    """Let each constructor judge its own options: a bound stands in one place only."""
    split, layout, intensity = config.split, config.data.layout, config.preprocess.intensity
    trials: list[tuple[KeyPath, Any, Callable[[], Any]]] = [
        (("loss",), config.loss, lambda: _tried_loss(config)),
        (("data", "layout"), layout, lambda: LAYOUTS[layout.name](Path(os.devnull), [], **layout.options())),
        (("split",), split, lambda: SPLITS[split.name]([], **split.options())),
        (("score",), config.score, lambda: bin_of_cell(config.score.bins, config.score.edges)),
        (("preprocess", "intensity"), intensity, lambda: INTENSITIES[intensity.name](**intensity.options())),
    ]
    for path, section, trial in trials:
        try:
            trial()
        except DataRefusedError:
            continue  # the data is not known here
        except ValueError as error:
            yield _pointed(path, section, str(error))


def _tried_loss(config: RunConfig) -> None:
    """On a few voxels too: a window for two axes, say, or a number that overflows, is found before the data is read."""
    labels = torch.zeros(1, 2, 2, 2, dtype=torch.long)
    logits = torch.zeros(1, config.num_classes, 2, 2, 2)
    objective = config.build_objective()
    try:
        objective.observe(logits, labels)
        objective.update()
        loss = objective(logits, labels, torch.zeros(1, 1, 2, 2, 2))
    except (RuntimeError, OverflowError, MemoryError) as error:
        raise ValueError(f"cannot be computed: {error}") from error
    if not bool(loss.isfinite()):
        raise ValueError(f"is {float(loss)} where all logits are 0; one of its options is out of range")


def _pointed(path: KeyPath, section: Any, message: str) -> Finding:
    """Constructors begin a message with the option's name: point at that key."""
    first = message.split(" ", 1)[0]
    return ((*path, first), message) if first in type(section).model_fields else (path, message)


def _labels(config: RunConfig) -> Iterator[Finding]:
    data = config.data
    if data.convention is not None:
        for name, message in convention_errors(data.convention, data.labels):
            yield ("data", "labels", name), message
    if data.layout.name == "brats" and data.convention is None:
        yield (
            ("data",),
            "the layout 'brats' needs `convention`: code 4 is enhancing tumor until 2021 and a resection cavity in "
            "2024; name one of brats2013, brats2017-2021, brats2023, brats2024",
        )
    if data.ignore_label is not None and any(data.ignore_label in codes for codes in data.labels.values()):
        yield (
            ("data", "ignore_label"),
            f"code {data.ignore_label} is also the code of a class; an ignored voxel has none",
        )


def _class_names(config: RunConfig) -> Iterator[Finding]:
    """Wherever a config names classes, they must be those of `labels`."""
    data = config.data
    for name, members in data.composites.items():
        unknown = [member for member in members if member not in data.labels]
        path = ("data", "composites", name)
        if unknown or not members:
            yield path, f"expected names of classes ({', '.join(data.labels)}), got {', '.join(unknown) or 'none'}"
        if len(set(members)) < len(members):
            yield path, "names a class twice, which would add its probability twice"
        if name in data.labels:
            yield path, "is also the name of a class; name the union differently"
    for case, names in getattr(data.layout, "labelled_classes", {}).items():
        unknown = [name for name in names if name not in data.labels]
        if unknown:
            yield (
                ("data", "layout", "labelled_classes", case),
                f"expected names of classes ({', '.join(data.labels)}), got {', '.join(unknown)}",
            )


def _patch(config: RunConfig) -> Iterator[Finding]:
    try:
        divisor = NETWORKS[config.model.name].divisor(config.model.options())
    except ValueError as error:
        yield _pointed(("model",), config.model, str(error))
        return
    size = config.train.patch_size
    if any(n % d for n, d in zip(size, divisor, strict=True)):
        below = [max(n // d, 1) * d for n, d in zip(size, divisor, strict=True)]
        above = [-(-n // d) * d for n, d in zip(size, divisor, strict=True)]
        yield (
            ("train", "patch_size"),
            f"must be divisible by {list(divisor)} (the network's strides), got {list(size)}; "
            f"nearest: {below} or {above}",
        )
