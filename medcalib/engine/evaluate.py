"""Scoring a folder of predictions against references: one pass a case, then `scores.json`."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

import medcalib
from medcalib.config import RunConfig
from medcalib.config.references import paired
from medcalib.config.schema import ScoreConfig
from medcalib.data.geometry import voxel_sizes
from medcalib.data.labels import IGNORE, LabelMap
from medcalib.data.predictions import (
    INDEX,
    Pair,
    labels_for,
    read_pair,
    without_folders,
)
from medcalib.errors import DataError, DataRefusedError, Problem
from medcalib.files import read_json, write_json
from medcalib.metrics import CaseScores, score_case
from medcalib.metrics.summary import summarize

SCORES = "scores.json"
Refusal = dict[str, str]


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
    pairs, refused, source = paired(predictions, labels, data)
    if not pairs and not refused:
        raise DataRefusedError([Problem(str(predictions), "no_prediction", "no <case>.nii.gz found")])
    label_map = None if data is None else data.label_map
    composites = {} if data is None else data.composite_indices
    (out / SCORES).unlink(missing_ok=True)  # it must not stand beside counts of another run if this one is cut off
    scored = []
    for case, refusal in _results([Job(pair, label_map, composites, score, out) for pair in pairs], workers):
        if refusal is None:
            scored.append(CaseScores.load(out / f"{case}.npz"))
        else:
            (out / f"{case}.npz").unlink(missing_ok=True)
            refused.append(refusal)
    private = [{**entry, "message": without_folders(entry["message"], predictions, labels)} for entry in refused]
    total = len(scored) + len(refused)
    summary = summarize(scored, bins=score.bins, edges=score.edges, expected=total, refused=private)
    found = {**_source(predictions), "expected_from": source, **summary}
    write_json(out / SCORES, found)
    return found


def score_pair(job: Job) -> tuple[str, Refusal | None]:
    """Score one case into its `.npz`; returns its id and, when refused, why."""
    case = job.pair.case
    try:
        label_map = labels_for(job.pair.prediction, job.label_map)
        compared = read_pair(job.pair, label_map)
        probs = compared.probs
    except DataError as error:
        return case.id, _refusal(case.id, error.reason, str(error))
    except MemoryError:
        return case.id, _refusal(case.id, "out_of_memory", "the volumes do not fit into memory")
    try:
        scores = score_case(
            torch.from_numpy(probs),
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
    except ValueError as error:
        return case.id, _refusal(case.id, "bad_probabilities", f"{job.pair.prediction}: {error}")
    except MemoryError:
        return case.id, _refusal(case.id, "out_of_memory", "the scores do not fit into memory; use fewer workers")
    scores.save(job.out / f"{case.id}.npz")
    return case.id, None


def _refusal(case: str, reason: str, message: str) -> Refusal:
    return {"case": case, "reason": reason, "message": message}


def _results(jobs: Sequence[Job], workers: int) -> Iterator[tuple[str, Refusal | None]]:
    show = {"desc": "score", "total": len(jobs), "leave": False, "disable": not sys.stderr.isatty()}
    if workers <= 1:
        yield from tqdm(map(score_pair, jobs), **show)
        return
    with ProcessPoolExecutor(workers, get_context("spawn"), _single_thread) as pool:
        submitted = [(job.pair.case.id, pool.submit(score_pair, job)) for job in jobs]
        for case, future in tqdm(submitted, **show):
            try:
                yield future.result()
            except BrokenProcessPool:
                yield case, _refusal(case, "worker_died", "a worker was killed, probably for memory; use fewer workers")


def _single_thread() -> None:
    """Workers share the cores among themselves."""
    torch.set_num_threads(1)


def _source(predictions: Path) -> dict[str, Any]:
    """What the predictions' own index says of them."""
    index = read_json(predictions / INDEX) if (predictions / INDEX).is_file() else {}
    return {
        "dataset": index.get("dataset"),
        "method": index.get("method", {"name": predictions.name}),
        "split": index.get("split"),
        "software": f"medcalib {medcalib.__version__}",
    }
