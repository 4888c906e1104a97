"""Scoring one case in any process: read, score, save; or skip it when its file says that nothing has changed."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import torch

import medcalib
from medcalib.config.schema import ScoreConfig
from medcalib.data.geometry import voxel_sizes
from medcalib.data.labels import IGNORE, LabelMap
from medcalib.data.masks import mask_file, read_mask
from medcalib.data.predictions import (
    Channels,
    Pair,
    channels_of,
    class_order_problem,
    input_files,
    read_pair,
    without_folders,
)
from medcalib.engine.parts import Refusal
from medcalib.errors import DataError
from medcalib.files import sha256
from medcalib.metrics import CaseScores, score_case

SLAB_VOXELS = 1 << 18  # at a time: 15 MB of 14 classes
SUMMARY_ONLY = {"bins", "edges"}  # they change no count, so finished cases stay finished when they change


@dataclass(frozen=True)
class Settings:
    """How all cases of a run are scored, and where to.

    `fresh`: nothing that is there is reused. `masks`: folders of regions by name. `assume_logits` and
    `assume_orientation`: what `read_pair` may take for granted.
    """

    out: Path
    score: ScoreConfig
    label_map: LabelMap | None
    composites: Mapping[str, tuple[int, ...]]
    fresh: bool = False
    masks: Mapping[str, Path] = field(default_factory=dict)
    assume_logits: bool = False
    assume_orientation: bool = False


@dataclass(frozen=True)
class Job:
    """Everything that scoring one case needs, so that a worker process can do it."""

    pair: Pair
    settings: Settings

    @property
    def file(self) -> Path:
        """Where its scores are kept."""
        return self.settings.out / f"{self.pair.case.id}.npz"


class Outcome(NamedTuple):
    """What became of a case: scored (`reused`: by an earlier run), or refused and why."""

    case: str
    refusal: Refusal | None = None
    reused: bool = False


def score_pair(job: Job) -> Outcome:
    """Score one case into its `.npz`, unless that holds the scores of these very files and settings."""
    case = job.pair.case.id
    try:
        channels = channels_of(job.pair.prediction, job.settings.label_map)
        inputs = inputs_of(job, channels)
        if not job.settings.fresh and is_finished(job.file, case, inputs):
            return Outcome(case, reused=True)
        scores = _scores(job, channels.label_map, inputs)
    except DataError as error:
        return refusal_of(job, error.reason, str(error))
    except ValueError as error:
        return refusal_of(job, "bad_probabilities", f"{job.pair.prediction}: {error}")
    except MemoryError:
        return refusal_of(job, "out_of_memory", "the volumes or scores do not fit into memory; use fewer workers")
    scores.save(job.file)
    return Outcome(case)


def refusal_of(job: Job, reason: str, message: str) -> Outcome:
    """The outcome of a case without scores; those of an earlier run are removed."""
    job.file.unlink(missing_ok=True)
    case = job.pair.case.id
    return Outcome(case, {"case": case, "reason": reason, "message": without_folders(message, *_folders(job))})


def _scores(job: Job, label_map: LabelMap, inputs: Mapping[str, str]) -> CaseScores:
    case, settings = job.pair.case, job.settings
    assumed = {"assume_logits": settings.assume_logits, "assume_orientation": settings.assume_orientation}
    with read_pair(job.pair, label_map, **assumed) as compared:
        affine, shape = compared.affine, compared.label.shape
        masks = {name: read_mask(mask_file(path, case.id), affine, shape) for name, path in settings.masks.items()}
        groups = compared.groups
        named = settings.composites if groups is None else dict(zip(compared.channel_names, groups, strict=True))
        scores = score_case(
            compared.slabs(SLAB_VOXELS),
            torch.from_numpy(compared.label),
            case_id=case.id,
            patient_id=case.patient_id,
            class_names=label_map.class_names,
            spacing_mm=voxel_sizes(affine),
            regions=settings.score.regions,
            composites=named,
            posterior=None if compared.posterior is None else torch.from_numpy(compared.posterior),
            ignore_index=IGNORE,
            labelled_classes=case.labelled_classes,
            distances=settings.score.distances,
            activation=compared.activation,
            groups=groups,
            masks={name: torch.from_numpy(mask) for name, mask in masks.items()},
            boundary_mm=settings.score.boundary_mm,
            surface_tolerance_mm=settings.score.surface_tolerance_mm,
            protocols=settings.score.protocols,
            warnings=[without_folders(text, *_folders(job)) for text in compared.warnings],
            inputs=inputs,
        )
    # channels in another order than the classes would look like a useless network
    problem = None if scores.binary else class_order_problem(scores.confusion.numpy(), label_map.class_names)
    if problem is not None:
        raise DataError("class_order", f"{job.pair.prediction}: {problem}")
    return scores


def _folders(job: Job) -> Iterator[Path]:
    """Folders that a text about a case may name, and that results may not."""
    files = (job.pair.prediction, job.pair.case.label, job.pair.case.posterior)
    yield from (path.parent for path in files if path is not None)
    yield from job.settings.masks.values()


def is_finished(path: Path, case: str, inputs: Mapping[str, str]) -> bool:
    """Whether `path` is whole and holds the scores of this case from these inputs."""
    if path.is_symlink() or not path.is_file():
        return False
    try:
        stored = CaseScores.load(path)
    except DataError:
        return False
    return (stored.case_id, dict(stored.inputs)) == (case, dict(inputs))


def inputs_of(job: Job, channels: Channels) -> dict[str, str]:
    """SHA-256 of the files that are read for a case, by their role, and of all settings that its counts depend on.

    They are taken before the files are read for scoring: a file that changes in between is scored again next time.
    """
    case, settings = job.pair.case, job.settings
    label_map = channels.label_map
    files: dict[str, Sequence[Path | None]] = {"label": [case.label], "posterior": [case.posterior]}
    files["prediction"] = input_files(job.pair.prediction, settings.label_map)
    files |= {f"mask {name}": [mask_file(folder, case.id)] for name, folder in sorted(settings.masks.items())}
    present = {role: [path for path in paths if path is not None] for role, paths in files.items()}
    used = {
        "software": medcalib.__version__,
        "case": (case.id, case.patient_id, case.labelled_classes),
        "labels": (label_map.class_names, label_map.codes, label_map.ignore_code),
        "composites": dict(settings.composites),
        "score": settings.score.model_dump(mode="json", exclude=SUMMARY_ONLY),
        "assumed": (settings.assume_logits, settings.assume_orientation),
    }
    return {**{role: _of_files(paths) for role, paths in present.items() if paths}, "settings": _digest(used)}


def _of_files(paths: Sequence[Path]) -> str:
    try:
        return _digest([sha256(path) for path in paths])
    except OSError as error:
        raise DataError("unreadable", f"{error.filename} cannot be read: {error.strerror}") from error


def _digest(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()
