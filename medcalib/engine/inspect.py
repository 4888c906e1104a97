"""`medcalib check`: every problem of a data folder, and the facts that choose patch size and spacing."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from tqdm import tqdm

from medcalib.config import RunConfig
from medcalib.config.dataset import scan, split_of
from medcalib.data.case import Case
from medcalib.data.check import check_case
from medcalib.data.geometry import orientation
from medcalib.data.labels import IGNORE
from medcalib.data.load import LoadedCase
from medcalib.data.splits import Split
from medcalib.data.transforms import Preprocess
from medcalib.engine.loader import preprocess_of
from medcalib.errors import DataRefusedError, Problem


@dataclass
class Inspection:
    """What was found. `problems` holds errors first; `facts` is what `--json` prints."""

    problems: list[Problem] = field(default_factory=list)
    facts: dict[str, Any] = field(default_factory=dict)

    @property
    def refused(self) -> bool:
        """Whether any problem is an error."""
        return any(problem.level == "error" for problem in self.problems)


@dataclass
class _Seen:
    """Running facts over cases."""

    shapes: list[tuple[int, ...]] = field(default_factory=list)
    spacings: list[tuple[float, ...]] = field(default_factory=list)
    orientations: Counter[str] = field(default_factory=Counter)
    voxels: Counter[int] = field(default_factory=Counter)
    present: Counter[int] = field(default_factory=Counter)
    brightest: float = 0.0
    preprocessed: dict[str, tuple[int, ...]] = field(default_factory=dict)

    def add(self, loaded: LoadedCase, preprocess: Preprocess) -> None:
        self.preprocessed[loaded.case.id] = preprocess.shape_of(loaded.image.shape[1:], loaded.affine)
        self.shapes.append(loaded.image.shape[1:])
        self.spacings.append(loaded.spacing_mm)
        self.orientations[orientation(loaded.affine)] += 1
        self.brightest = max(self.brightest, float(np.abs(loaded.image).max()))
        if loaded.label is not None:
            classes, counts = np.unique(loaded.label, return_counts=True)
            for k, n in zip(classes.tolist(), counts.tolist(), strict=True):
                self.voxels[k] += n
                self.present[k] += 1


def inspect(config: RunConfig) -> Inspection:
    """Read every case of the config's data folder completely and report everything at once."""
    cases, problems = scan(config.data, config.root)
    seen, channels, preprocess = _Seen(), None, preprocess_of(config)
    for case in tqdm(cases, "check", leave=False, disable=not sys.stderr.isatty()):
        loaded, found = check_case(
            case,
            config.data.label_map,
            nonfinite=config.data.nonfinite,
            channels=channels,
            resampled=config.preprocess.spacing_mm is not None,
        )
        problems += found
        if loaded is not None:
            channels = channels or loaded.image.shape[0]
            seen.add(loaded, preprocess)
    facts = _facts(config, cases, seen)
    try:
        if cases:
            split = split_of(config, cases)
            facts["split"] = {name: len(part) for name, part in split.items()}
            problems += _thin(config.train.patch_size, split, seen.preprocessed)
            if not facts["split"]["test"]:
                message = "no case is left for test: `predict` has nothing to do without --split val"
                problems.append(Problem("split", "empty_test", message, "warning"))
    except DataRefusedError as error:
        problems += [_as_told(p) for p in error.problems]
    return Inspection(sorted(problems, key=lambda problem: problem.level), facts)


def _as_told(problem: Problem) -> Problem:
    """A folder too small to train on can still be predicted and scored: a warning here, refused by `train`."""
    if problem.reason != "empty_split":
        return problem
    return Problem(problem.where, problem.reason, f"{problem.message}; training is refused until then", "warning")


def _thin(patch: Sequence[int], split: Split, shapes: Mapping[str, Sequence[int]]) -> list[Problem]:
    """Volumes that are padded along an axis where no training case is: padding is new to the network."""
    trained = [shapes[case.id] for case in split["train"] if case.id in shapes]
    thinnest = [min(sizes) for sizes in zip(*trained, strict=True)] or [0] * 3
    problems = []
    for case in (case for name in ("val", "test") for case in split[name] if case.id in shapes):
        axes = [axis for axis in range(3) if shapes[case.id][axis] < patch[axis] <= thinnest[axis]]
        if axes:
            message = (
                f"has {' x '.join(map(str, shapes[case.id]))} voxels once preprocessed, less than `train.patch_size` "
                f"along axis {' and '.join(map(str, axes))}: it is padded there, and no training case is; a network "
                "that has seen no padding fails on such volumes, so choose a patch as thin as the thinnest"
            )
            problems.append(Problem(case.id, "thin_volume", message, "warning"))
    return problems


def _facts(config: RunConfig, cases: list[Case], seen: _Seen) -> dict[str, Any]:
    names = {**dict(enumerate(config.data.class_names)), IGNORE: "ignored"}
    total = sum(seen.voxels.values())
    facts: dict[str, Any] = {
        "cases": len(cases),
        "patients": len({case.patient_id for case in cases}),
        "with_label": sum(case.label is not None for case in cases),
    }
    if seen.shapes:
        shapes, spacings = np.array(seen.shapes), np.array(seen.spacings)
        median = np.median(shapes, 0).tolist()
        facts |= {
            "orientations": dict(seen.orientations),
            "shape": {"min": shapes.min(0).tolist(), "median": median, "max": shapes.max(0).tolist()},
            "spacing_mm": {"min": spacings.min(0).round(4).tolist(), "max": spacings.max(0).round(4).tolist()},
            "largest_intensity": seen.brightest,
        }
    if total:
        facts["voxel_share"] = {
            name: seen.voxels[k] / total for k, name in names.items() if k != IGNORE or seen.voxels[k]
        }
        facts["cases_with_class"] = {name: seen.present[k] for k, name in enumerate(config.data.class_names)}
    return facts
