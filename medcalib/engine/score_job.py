"""Scoring one case in any process: read, score, save; or skip it when its file says that nothing has changed."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import torch

import medcalib
from medcalib.config.schema import ScoreConfig
from medcalib.data.geometry import voxel_sizes
from medcalib.data.labels import IGNORE, LabelMap
from medcalib.data.nifti import stem
from medcalib.data.predictions import Pair, labels_for, read_pair
from medcalib.engine.parts import Refusal
from medcalib.errors import DataError
from medcalib.files import sha256
from medcalib.metrics import CaseScores, score_case

SUMMARY_ONLY = {"bins", "edges"}  # they change no count, so finished cases stay finished when they change


@dataclass(frozen=True)
class Settings:
    """How all cases of a run are scored, and where to. `fresh`: nothing that is there is reused."""

    out: Path
    score: ScoreConfig
    label_map: LabelMap | None
    composites: Mapping[str, tuple[int, ...]]
    fresh: bool = False


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
        label_map = labels_for(job.pair.prediction, job.settings.label_map)
        inputs = inputs_of(job, label_map)
        if not job.settings.fresh and is_finished(job.file, case, inputs):
            return Outcome(case, reused=True)
        scores = _scores(job, label_map)
    except DataError as error:
        return refusal_of(job, error.reason, str(error))
    except ValueError as error:
        return refusal_of(job, "bad_probabilities", f"{job.pair.prediction}: {error}")
    except MemoryError:
        return refusal_of(job, "out_of_memory", "the volumes or scores do not fit into memory; use fewer workers")
    replace(scores, inputs=inputs).save(job.file)
    return Outcome(case)


def refusal_of(job: Job, reason: str, message: str) -> Outcome:
    """The outcome of a case without scores; those of an earlier run are removed."""
    job.file.unlink(missing_ok=True)
    case = job.pair.case.id
    return Outcome(case, {"case": case, "reason": reason, "message": message})


def _scores(job: Job, label_map: LabelMap) -> CaseScores:
    case, score = job.pair.case, job.settings.score
    compared = read_pair(job.pair, label_map)
    return score_case(
        torch.from_numpy(compared.probs),
        torch.from_numpy(compared.label),
        case_id=case.id,
        patient_id=case.patient_id,
        class_names=label_map.class_names,
        spacing_mm=voxel_sizes(compared.affine),
        regions=score.regions,
        composites=job.settings.composites,
        posterior=None if compared.posterior is None else torch.from_numpy(compared.posterior),
        ignore_index=IGNORE,
        labelled_classes=case.labelled_classes,
        distances=score.distances,
    )


def is_finished(path: Path, case: str, inputs: Mapping[str, str]) -> bool:
    """Whether `path` is whole and holds the scores of this case from these inputs."""
    if path.is_symlink() or not path.is_file():
        return False
    try:
        stored = CaseScores.load(path)
    except DataError:
        return False
    return (stored.case_id, dict(stored.inputs)) == (case, dict(inputs))


def inputs_of(job: Job, label_map: LabelMap) -> dict[str, str]:
    """SHA-256 of the files that are read for a case, by their role, and of all settings that its counts depend on.

    They are taken before the files are read for scoring: a file that changes in between is scored again next time.
    """
    case = job.pair.case
    sidecar = job.pair.prediction.with_name(f"{stem(job.pair.prediction)}.json")
    files = {"prediction": (job.pair.prediction, sidecar), "label": (case.label,), "posterior": (case.posterior,)}
    present = {role: [path for path in paths if path is not None and path.exists()] for role, paths in files.items()}
    settings = {
        "software": medcalib.__version__,
        "case": (case.id, case.patient_id, case.labelled_classes),
        "labels": (label_map.class_names, label_map.codes, label_map.ignore_code),
        "composites": dict(job.settings.composites),
        "score": job.settings.score.model_dump(mode="json", exclude=SUMMARY_ONLY),
    }
    return {**{role: _of_files(paths) for role, paths in present.items() if paths}, "settings": _digest(settings)}


def _of_files(paths: Sequence[Path]) -> str:
    try:
        return _digest([sha256(path) for path in paths])
    except OSError as error:
        raise DataError("unreadable", f"{error.filename} cannot be read: {error.strerror}") from error


def _digest(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()
