"""Probabilities of a trained run on the images' own grids."""

from __future__ import annotations

import logging
import sys
from pathlib import Path
from typing import Any

from tqdm import tqdm

import medcalib
from medcalib.config import RunConfig
from medcalib.data.load import load_case
from medcalib.data.predictions import INDEX, remove_prediction, without_folders, write_prediction
from medcalib.distributed import resolve_device
from medcalib.engine.fitted import (
    Fitted,
    described,
    load_fitted,
    refuse_fitted_cases,
    refuse_other_classes,
    refuse_other_model,
)
from medcalib.engine.loader import preprocess_of
from medcalib.engine.predictor import Predictor
from medcalib.engine.run import Weights, cases_of, load_model, open_run
from medcalib.errors import ConfigError, DataError
from medcalib.files import read_json, write_json

log = logging.getLogger(__name__)


def predict(
    run: Path,
    out: Path,
    *,
    split: str = "test",
    data: str | None = None,
    device: str = "auto",
    calibrator: Path | None = None,
    weights: Weights = "best",
) -> dict[str, Any]:
    """Predict the cases of one split of the run into `out`; returns the index that is written there.

    `weights`: "best" by validation Dice, or "last" (see `load_model`).
    `calibrator` is a file that `calibrate` wrote for this run; cases of patients that it was fitted on are refused,
    unless it was cross-fitted: then each is repaired by the fit that has not seen the patient. A case whose files are
    refused is recorded with its reason, the others go on.
    """
    config = open_run(run, data)
    cases = cases_of(run, config, split)
    chosen = resolve_device(device)
    model, entry = load_model(run, config, chosen, weights)
    ids = [case.id for case in cases]
    fitted = None if calibrator is None else load_fitted(calibrator)
    if fitted is not None and calibrator is not None:
        refuse_other_classes(fitted, calibrator, config.data.label_map, str(run))
        refuse_other_model(fitted, calibrator, entry["sha256"], str(run))
        refuse_fitted_cases(fitted, calibrator, cases)
    predictor = Predictor(config, model, preprocess_of(config), chosen)
    method = method_of(config, fitted) | {
        "weights": weights,
        "weights_sha256": entry["sha256"],
        "epoch": entry["epoch"],
    }
    software = f"medcalib {medcalib.__version__}"
    source = {"dataset": config.name, "method": method, "software": software}
    index: dict[str, Any] = {**source, "split": split, "cases": ids, "refused": []}
    _claim(out, index)
    for case in tqdm(cases, "predict", leave=False, disable=not sys.stderr.isatty()):
        try:
            remove_prediction(out, case)  # what an earlier try wrote must not be scored if this one is refused
            loaded = load_case(case, config.data.label_map, nonfinite=config.data.nonfinite, with_label=False)
            probs = predictor.probs(loaded, None if fitted is None else fitted.for_case(case))
            write_prediction(out, case, probs, loaded.affine, config.data.label_map, source)
        except DataError as error:
            log.warning("refused: %s", error)
            message = without_folders(str(error), config.root)
            index["refused"].append({"case": case.id, "reason": error.reason, "message": message})
    write_json(out / INDEX, index)
    return index


def method_of(config: RunConfig, fitted: Fitted | None = None) -> dict[str, Any]:
    """The name of a method in tables, and every setting that made it; no path, since results travel."""
    settings = config.model_dump(mode="json", include={"loss", "model", "train", "preprocess", "augment", "predict"})
    if fitted is None:
        return {"name": config.loss.name, **settings}
    return {
        "name": f"{config.loss.name} + {fitted.calibrator.name}",
        **settings,
        "calibrator": described(fitted),
    }


def _claim(out: Path, index: dict[str, Any]) -> None:
    """Write the index first, so that a crash leaves missing cases known; refuse a folder of other predictions."""
    if (out / INDEX).is_file():
        before = read_json(out / INDEX)
        if any(before.get(key) != index[key] for key in ("method", "split", "dataset")):
            raise ConfigError(f"{out} holds predictions of another run or split; choose another --out")
    write_json(out / INDEX, index)
