"""Scoring a folder of predictions against references: one pass a case, then `scores.json`."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from concurrent.futures import Executor, ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

import medcalib
from medcalib.config import RunConfig
from medcalib.config.references import references
from medcalib.config.schema import ScoreConfig
from medcalib.data.geometry import voxel_sizes
from medcalib.data.labels import IGNORE, LabelMap
from medcalib.data.predictions import INDEX, Pair, expected_cases, label_map_of, pair_up, read_pair
from medcalib.errors import DataError, DataRefusedError, Problem
from medcalib.files import read_json, write_json
from medcalib.metrics import CaseScores, score_case
from medcalib.metrics.summary import summarize

SCORES = "scores.json"


@dataclass(frozen=True)
class Job:
    """Everything that scoring one case needs, so that a worker process can do it."""

    pair: Pair
    label_map: LabelMap | None
    composites: dict[str, tuple[int, ...]]
    score: ScoreConfig
    out: Path


def evaluate(
    predictions: Path, labels: Path, out: Path, *, config: RunConfig | None = None, workers: int = 1
) -> dict[str, Any]:
    """Score every prediction into `out/<case>.npz` and `out/scores.json`; returns the content of the latter.

    With a config, `labels` is the dataset's folder and the config says what the codes mean; without one it is a
    flat folder of `<case>.nii.gz` and each prediction's sidecar says it. A refused case is recorded with its
    reason; the others go on.
    """
    data = None if config is None else config.data
    score = ScoreConfig() if config is None else config.score
    pairs, refused = pair_up(predictions, references(labels, data), expected_cases(predictions))
    expected = len(pairs) + len(refused)
    if not expected:
        raise DataRefusedError([Problem(str(predictions), "no_prediction", "no <case>.nii.gz found")])
    label_map = None if data is None else data.label_map
    composites = {} if data is None else data.composite_indices
    jobs = [Job(pair, label_map, composites, score, out) for pair in pairs]
    scored = []
    for case, problem in _results(jobs, workers):
        if problem is None:
            scored.append(CaseScores.load(out / f"{case}.npz"))
        else:
            refused.append(problem)
    return _write_scores(out, predictions, scored, score, expected, refused)


def score_pair(job: Job) -> tuple[str, dict[str, str] | None]:
    """Score one case into its `.npz`; returns its id and, when refused, why."""
    case = job.pair.case
    try:
        label_map = job.label_map or label_map_of(job.pair.prediction)
        compared = read_pair(job.pair, label_map)
        scores = score_case(
            torch.from_numpy(compared.probs),
            torch.from_numpy(compared.label),
            case_id=case.id,
            patient_id=case.patient_id,
            class_names=label_map.class_names,
            spacing_mm=voxel_sizes(compared.affine),
            regions=job.score.regions,
            composites=job.composites,
            posterior=None if compared.posterior is None else torch.from_numpy(compared.posterior),
            ignore_index=IGNORE,
            labelled_classes=case.labelled_classes,
            distances=job.score.distances,
        )
        scores.save(job.out / f"{case.id}.npz")
    except DataError as error:
        return case.id, {"case": case.id, "reason": error.reason, "message": str(error)}
    except ValueError as error:
        return case.id, {
            "case": case.id,
            "reason": "bad_probabilities",
            "message": f"{job.pair.prediction}: {error}",
        }
    return case.id, None


def _results(jobs: Sequence[Job], workers: int) -> Iterator[tuple[str, dict[str, str] | None]]:
    show = {"desc": "score", "total": len(jobs), "leave": False, "disable": not sys.stderr.isatty()}
    if workers <= 1:
        yield from tqdm(map(score_pair, jobs), **show)
        return
    pool: Executor
    with ProcessPoolExecutor(workers, get_context("spawn"), _single_thread) as pool:
        yield from tqdm(pool.map(score_pair, jobs), **show)


def _single_thread() -> None:
    """Workers share the cores among themselves."""
    torch.set_num_threads(1)


def _write_scores(
    out: Path,
    predictions: Path,
    scored: Sequence[CaseScores],
    score: ScoreConfig,
    expected: int,
    refused: Sequence[dict[str, str]],
) -> dict[str, Any]:
    summary = summarize(scored, bins=score.bins, edges=score.edges, expected=expected, refused=refused)
    index = read_json(predictions / INDEX) if (predictions / INDEX).is_file() else {}
    summary = {
        "dataset": index.get("dataset"),
        "method": index.get("method", {"name": predictions.name}),
        "split": index.get("split"),
        "software": f"medcalib {medcalib.__version__}",
        **summary,
    }
    write_json(out / SCORES, summary)
    return summary
