"""One pass of a cell's network over the scored split: each case is predicted once, and scored raw and repaired.

The scores are those of `predict` (with each calibrator) and `score`, to the byte.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

import medcalib
from medcalib.config import RunConfig
from medcalib.data.case import Case
from medcalib.data.load import LoadedCase, load_case
from medcalib.data.nifti import write_volume
from medcalib.data.predictions import INDEX, Pair, without_folders, write_prediction
from medcalib.engine.fitted import Fitted, load_fitted, refuse_fitted_cases, refuse_other_model
from medcalib.engine.loader import preprocess_of
from medcalib.engine.parts import SCORES, Part, Refusal, write_part
from medcalib.engine.predict import method_of
from medcalib.engine.prediction_folder import Prediction
from medcalib.engine.predictor import Predictor
from medcalib.engine.run import Weights, cases_of, load_model
from medcalib.engine.score_job import Job, Settings, score_pair
from medcalib.errors import DataError
from medcalib.files import make_folder, write_json


@dataclass(frozen=True)
class Rows:
    """By row (`none`, or a calibrator's name): its calibrator's file, its scores, and predictions that are kept."""

    calibrators: Mapping[str, Path | None]
    scores: Mapping[str, Path]
    kept: Mapping[str, Path]


class Scored(NamedTuple):
    """The epoch of the weights, how many cases were refused in some row, and seconds by row and of `predict`."""

    epoch: int
    refused: int
    seconds: Mapping[str, float]


@dataclass
class _Row:
    """A row at work: what repairs its logits, how it is scored, what was refused so far and how long it took."""

    fitted: Fitted | None
    settings: Settings
    about: Mapping[str, Any]
    kept: Path | None
    refused: list[Refusal] = field(default_factory=list)
    seconds: float = 0.0


def score_rows(
    run: Path, config: RunConfig, device: torch.device, rows: Rows, *, split: str, weights: Weights
) -> Scored:
    """Score the cases of `split` in every row.

    A case whose files are refused is recorded with its reason, the others go on. Raises `ConfigError` for a calibrator
    that was fitted to other weights, or on patients of the split without cross-fitting.
    """
    model, entry = load_model(run, config, device, weights)
    cases = cases_of(run, config, split)
    working = {name: _prepared(name, rows, config, cases, weights, entry) for name in rows.scores}
    predictor = Predictor(config, model, preprocess_of(config), device)
    label_map, predicting = config.data.label_map, 0.0
    for case in cases:
        began = time.perf_counter()
        try:
            loaded = _loaded(case, config)
            logits = predictor.logits(loaded)
        except DataError as error:
            for row in working.values():
                row.refused.append({"case": case.id, "reason": error.reason, "message": str(error)})
            continue
        predicting += time.perf_counter() - began
        for row in working.values():
            began = time.perf_counter()
            calibrator = None if row.fitted is None else row.fitted.for_case(case)
            probs = predictor.repaired(logits, loaded, calibrator)
            _score(row, case, Prediction(probs, loaded.affine, label_map))
            row.seconds += time.perf_counter() - began
    for row in working.values():
        _finish(row, config, cases, split)
    took = {"predict": predicting, **{name: row.seconds for name, row in working.items()}}
    refused = {entry["case"] for row in working.values() for entry in row.refused}
    return Scored(int(entry["epoch"]), len(refused), {name: round(seconds, 3) for name, seconds in took.items()})


def _prepared(
    name: str, rows: Rows, config: RunConfig, cases: list[Case], weights: Weights, entry: Mapping[str, Any]
) -> _Row:
    file, out = rows.calibrators[name], rows.scores[name]
    fitted = None if file is None else load_fitted(file)
    if fitted is not None and file is not None:
        refuse_other_model(fitted, file, entry["sha256"], "this run")
        refuse_fitted_cases(fitted, file, cases)
    about = {
        "dataset": config.name,
        "method": method_of(config, fitted, weights, entry),
        "software": f"medcalib {medcalib.__version__}",
    }
    make_folder(out)
    (out / SCORES).unlink(missing_ok=True)
    settings = Settings(out, config.score, config.data.label_map, config.data.composite_indices)
    return _Row(fitted, settings, about, rows.kept.get(name))


def _loaded(case: Case, config: RunConfig) -> LoadedCase:
    if case.label is None:
        raise DataError("missing_reference", "no reference label for this prediction")
    return load_case(case, config.data.label_map, nonfinite=config.data.nonfinite, with_label=False)


def _score(row: _Row, case: Case, prediction: Prediction) -> None:
    """Score one prediction. One that is not kept passes through a file without compression, one case at a time."""
    with tempfile.TemporaryDirectory(prefix="medcalib-") as passing:
        if row.kept is not None:
            write_prediction(row.kept, case, *prediction, row.about)
            file = row.kept / f"{case.id}.nii.gz"
        else:
            file = Path(passing) / f"{case.id}.nii"
            write_volume(file, np.moveaxis(prediction.probs, 0, -1), prediction.affine)
        outcome = score_pair(Job(Pair(case, file), row.settings))
    if outcome.refusal is not None:
        row.refused.append(outcome.refusal)


def _finish(row: _Row, config: RunConfig, cases: list[Case], split: str) -> None:
    """Write the summary, which says that the row is done, and the index of predictions that are kept."""
    folders = (config.root, *([] if row.kept is None else [row.kept]))
    refused = tuple({**entry, "message": without_folders(entry["message"], *folders)} for entry in row.refused)
    lost = {entry["case"] for entry in refused}
    scored = tuple(sorted(case.id for case in cases if case.id not in lost))
    expected = tuple(sorted(case.id for case in cases))
    if row.kept is not None:
        write_json(row.kept / INDEX, {**row.about, "split": split, "cases": [c.id for c in cases], "refused": []})
    source = {**row.about, "split": split, "expected_from": "index"}
    write_part(Part(row.settings.out, source, config.score, scored, refused, expected))
