"""Scoring a folder of predictions against references: one pass a case, then `scores.json`, or a shard of it."""

from __future__ import annotations

import logging
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tqdm import tqdm

import medcalib
from medcalib.config import RunConfig
from medcalib.config.references import paired
from medcalib.config.schema import DataConfig, ScoreConfig
from medcalib.data.predictions import INDEX, without_folders
from medcalib.engine.parts import SCORES, Part, Refusal, check_out, write_part
from medcalib.engine.pool import unordered
from medcalib.engine.score_job import Job, Outcome, Settings, refusal_of, score_pair
from medcalib.engine.shards import Shard, shard_files
from medcalib.errors import ConfigError, DataError, DataRefusedError, Problem, RefusedError
from medcalib.files import CASE_ID, make_folder, read_json, remove_abandoned
from medcalib.metrics.numbers import CASE_KEYS
from medcalib.metrics.protocols import PROTOCOLS
from medcalib.metrics.regions import REGIONS
from medcalib.options import suggestion

__all__ = ["evaluate"]

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
    protocols: Sequence[str] = (),
    masks: Mapping[str, Path] | None = None,
    assume_logits: bool = False,
    assume_orientation: bool = False,
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
    protocols: published evaluations to reproduce; take the place of the config's, where there are any.
    masks: regions of yours by name, folders of `<case>.nii.gz` on the label's grid, inside where not 0.
    assume_logits, assume_orientation: see `read_pair`; used only where the prediction does not say.

    Raises `DataRefusedError` when there is nothing to score, `RefusedError` when strict, `OSError` when `out` cannot
    be written. `DataError` for a folder of masks that is missing, `ConfigError` for a mask or protocol whose name is
    impossible.
    """
    data = None if config is None else config.data
    label_map, composites = (None, {}) if data is None else (data.label_map, data.composite_indices)
    score = _with_protocols(ScoreConfig() if config is None else config.score, protocols)
    named = _checked_masks(masks or {})
    settings = Settings(out, score, label_map, composites, fresh, named, assume_logits, assume_orientation)
    plan = _plan(predictions, labels, data, settings, shard)
    check_out(out, plan.expected, (predictions, labels, *named.values()))
    if strict and plan.unpaired:
        raise _strictly(plan.unpaired[0], predictions, labels)  # before the results of another run are removed
    _prepare(out, shard)
    refused = []
    reused = 0
    for outcome in _outcomes(plan, workers):
        reused += outcome.reused
        if outcome.refusal is not None:
            message = without_folders(outcome.refusal["message"], predictions, labels, *named.values())
            refused.append({**outcome.refusal, "message": message})
            if strict:
                raise _strictly(refused[-1], predictions, labels)
    if reused:
        log.info("reused %d finished cases of %d", reused, len(plan.jobs))
    lost = {entry["case"] for entry in refused}
    scored = tuple(job.pair.case.id for job in plan.jobs if job.pair.case.id not in lost)
    return write_part(Part(out, plan.source, score, scored, tuple(refused), plan.expected, shard))


def _strictly(refusal: Refusal, *folders: Path) -> RefusedError:
    message = without_folders(refusal["message"], *folders)
    return RefusedError(f"{refusal['case']}: {message} [{refusal['reason']}]")


def _with_protocols(score: ScoreConfig, protocols: Sequence[str]) -> ScoreConfig:
    for name in protocols:
        if name not in PROTOCOLS:
            raise ConfigError(f"unknown protocol {name!r}; {suggestion(name, list(PROTOCOLS))}")
    return score.model_copy(update={"protocols": tuple(dict.fromkeys(protocols))}) if protocols else score


def _checked_masks(masks: Mapping[str, Path]) -> Mapping[str, Path]:
    for name, folder in masks.items():
        if name in (*REGIONS, *CASE_KEYS) or not CASE_ID.match(name):
            raise ConfigError(
                f"a mask cannot be called {name!r}; use letters, digits, '_' and '-', and no name that scores.json uses"
            )
        if not folder.is_dir():
            raise DataError("missing_folder", f"{folder} is no folder of masks")
    return dict(sorted(masks.items()))  # in whatever order they are given, the bytes are the same


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
        raise DataRefusedError(
            [
                Problem(
                    str(predictions),
                    "no_prediction",
                    "no prediction <case>.nii.gz, .npz or .npy found; name the folder that `predict` wrote, or nnU-Net "
                    "with --save_probabilities",
                )
            ]
        )
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
    make_folder(out)
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
