"""Probabilities of a trained run on the images' own grids."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from medcalib.config import RunConfig
from medcalib.data.case import Case
from medcalib.data.load import load_case
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
from medcalib.engine.prediction_folder import Prediction, write_predictions
from medcalib.engine.predictor import Predictor
from medcalib.engine.run import Weights, cases_of, load_model, open_run
from medcalib.errors import ConfigError
from medcalib.files import same_place

__all__ = ["predict"]


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
    refused is recorded with its reason, the others go on. Raises `ConfigError` for an `out` that is read from.
    """
    config = open_run(run, data)
    if any(same_place(out, source) for source in (run, config.root)):
        raise ConfigError(f"{out} is a folder that is read from; choose another --out for the predictions")
    cases = cases_of(run, config, split)
    chosen = resolve_device(device)
    model, entry = load_model(run, config, chosen, weights)
    fitted = None if calibrator is None else load_fitted(calibrator)
    if fitted is not None and calibrator is not None:
        refuse_other_classes(fitted, calibrator, config.data.label_map, str(run))
        refuse_other_model(fitted, calibrator, entry["sha256"], str(run))
        refuse_fitted_cases(fitted, calibrator, cases)
    predictor = Predictor(config, model, preprocess_of(config), chosen)
    method = method_of(config, fitted, weights, entry)

    def predicted(case: Case) -> Prediction:
        loaded = load_case(case, config.data.label_map, nonfinite=config.data.nonfinite, with_label=False)
        probs = predictor.probs(loaded, None if fitted is None else fitted.for_case(case))
        return Prediction(probs, loaded.affine, config.data.label_map)

    source = {"dataset": config.name, "method": method}
    return write_predictions(out, source, split, cases, predicted, (config.root,), "predict")


def method_of(config: RunConfig, fitted: Fitted | None, weights: Weights, entry: Mapping[str, Any]) -> dict[str, Any]:
    """The name of a method in tables, and every setting that made it; no path, since results travel."""
    parts = {"loss", "model", "train", "preprocess", "augment", "predict"}
    settings = config.model_dump(mode="json", include=parts, exclude={"train": {"cache_dir"}})
    used = {"weights": weights, "weights_sha256": entry["sha256"], "epoch": entry["epoch"]}
    if fitted is None:
        return {"name": config.loss.name, **settings, **used}
    return {
        "name": f"{config.loss.name} + {fitted.calibrator.name}",
        **settings,
        "calibrator": described(fitted),
        **used,
    }
