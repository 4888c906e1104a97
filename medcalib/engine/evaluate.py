"""Scoring a folder of predictions against references: one pass a case, then `scores.json`, or a shard of it."""

from __future__ import annotations

import logging
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tqdm import tqdm

import medcalib
from medcalib.config import RunConfig
from medcalib.config.references import paired
from medcalib.config.schema import DataConfig, ScoreConfig
from medcalib.data.predictions import INDEX, without_folders
from medcalib.engine.parts import SCORES, Part, Refusal, write_part
from medcalib.engine.pool import unordered
from medcalib.engine.score_job import Job, Outcome, Settings, refusal_of, score_pair
from medcalib.engine.shards import Shard, shard_files
from medcalib.errors import DataRefusedError, Problem, RefusedError
from medcalib.files import read_json, remove_abandoned

log = logging.getLogger(__name__)


def evaluate(
    predictions: Path,
    labels: Path,
    out: Path,
    *,
    config: RunConfig | None = None,
    workers: int = 1,
    shard: Shard | None = None,
    fresh: bool = False,
    strict: bool = False,
) -> dict[str, Any]:
    """Score every prediction into `out/<case>.npz` and `out/scores.json`; returns the content of the latter.

    predictions: folder of probabilities (formats: see the README). labels: with a config the dataset's folder, and
    the config says what the codes mean; without one a flat folder of `<case>.nii.gz`, and each prediction's sidecar
    says it. A refused case is recorded with its reason; the others go on.

    workers: processes. They are spawned: in a script, call this under `if __name__ == "__main__":`. Neither their
    number nor their order changes a byte of the results.
    shard: score only these cases and write `out/shard-i-of-N.json` in place of `scores.json`. Shards may share `out`
    or not; `merge` makes the whole of them.
    fresh: score everything anew. Otherwise a case is skipped when the SHA-256 of its files and settings are those in
    its `.npz`; how many were skipped is logged.
    strict: the first refused case ends the run.

    Raises `DataRefusedError` when there is nothing to score, `RefusedError` when strict, `OSError` when `out` cannot
    be written.
    """
    data = None if config is None else config.data
    label_map, composites = (None, {}) if data is None else (data.label_map, data.composite_indices)
    score = ScoreConfig() if config is None else config.score
    plan = _plan(predictions, labels, data, Settings(out, score, label_map, composites, fresh), shard)
    _prepare(out, shard)
    refused = []
    reused = 0
    for outcome in _outcomes(plan, workers):
        reused += outcome.reused
        if outcome.refusal is not None:
            message = without_folders(outcome.refusal["message"], predictions, labels)
            refused.append({**outcome.refusal, "message": message})
            if strict:
                raise RefusedError(f"{outcome.case}: {message} [{outcome.refusal['reason']}]")
    if reused:
        log.info("reused %d finished cases of %d", reused, len(plan.jobs))
    lost = {entry["case"] for entry in refused}
    scored = tuple(job.pair.case.id for job in plan.jobs if job.pair.case.id not in lost)
    return write_part(Part(out, plan.source, score, scored, tuple(refused), plan.expected, shard))


@dataclass(frozen=True)
class _Plan:
    """The jobs of a shard, its cases that have no partner, and the cases of the whole run."""

    source: dict[str, Any]
    jobs: tuple[Job, ...]
    unpaired: tuple[Refusal, ...]
    expected: tuple[str, ...]


def _plan(predictions: Path, labels: Path, data: DataConfig | None, settings: Settings, shard: Shard | None) -> _Plan:
    pairs, unpaired, expected_from = paired(predictions, labels, data)
    if not pairs and not unpaired:
        raise DataRefusedError([Problem(str(predictions), "no_prediction", "no <case>.nii.gz found")])
    expected = sorted({*(pair.case.id for pair in pairs), *(entry["case"] for entry in unpaired)})
    mine = set(expected if shard is None else shard.of(expected))
    return _Plan(
        {**_source(predictions), "expected_from": expected_from},
        tuple(Job(pair, settings) for pair in pairs if pair.case.id in mine),
        tuple(entry for entry in unpaired if entry["case"] in mine),
        tuple(expected),
    )


def _prepare(out: Path, shard: Shard | None) -> None:
    """Fail now if `out` cannot be written; no summary of another run may stand beside the counts of this one."""
    out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryFile(dir=out):
        remove_abandoned(out)
    (out / SCORES).unlink(missing_ok=True)
    for path, other in shard_files(out).items():
        if shard is None or other == shard or other.count != shard.count:
            path.unlink(missing_ok=True)


def _outcomes(plan: _Plan, workers: int) -> Iterator[Outcome]:
    for entry in plan.unpaired:
        yield Outcome(entry["case"], entry)
    jobs: Sequence[Job] = plan.jobs
    done = map(score_pair, jobs) if workers <= 1 else unordered(score_pair, jobs, workers, died=_died)
    yield from tqdm(done, "score", len(jobs), leave=False, disable=not sys.stderr.isatty())


def _died(job: Job) -> Outcome:
    return refusal_of(
        job, "worker_died", "its process was killed twice, the second time alone; it probably needs more memory"
    )


def _source(predictions: Path) -> dict[str, Any]:
    """What the predictions' own index says of them."""
    index = read_json(predictions / INDEX) if (predictions / INDEX).is_file() else {}
    return {
        "dataset": index.get("dataset"),
        "method": index.get("method", {"name": predictions.name}),
        "split": index.get("split"),
        "software": f"medcalib {medcalib.__version__}",
    }
