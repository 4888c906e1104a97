"""Repairing predictions that lie on disk, of any tool, with a saved calibrator."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from medcalib.config import RunConfig
from medcalib.config.references import references
from medcalib.data.case import Case
from medcalib.data.predictions import INDEX, find_predictions
from medcalib.data.predictions.alone import read_alone
from medcalib.data.predictions.logits import as_logits
from medcalib.engine.fitted import (
    Fitted,
    described,
    load_fitted,
    refuse_fitted_cases,
    refuse_other_classes,
    refuse_other_model,
)
from medcalib.engine.prediction_folder import Prediction, write_predictions
from medcalib.errors import ConfigError, DataError
from medcalib.files import check_case_id, read_json, same_place, twins

__all__ = ["apply_calibrator"]


def apply_calibrator(
    calibrator: Path,
    predictions: Path,
    out: Path,
    *,
    labels: Path | None = None,
    config: RunConfig | None = None,
    assume_logits: bool = False,
    assume_orientation: bool = False,
) -> dict[str, Any]:
    """Write the repaired probabilities of every prediction of a folder into `out`; returns the index written there.

    `labels`: volumes that tell the grid and, with `config`, whose patient a case is; needed for arrays (.npz, .npy).
    Cases of patients that the calibrator was fitted on are refused unless it was cross-fitted; then each is repaired
    by the fit that has not seen the patient. A case whose files are refused is recorded; the others go on. Raises
    `ConfigError` for predictions that do not fit the calibrator, `DataError` where there is none.
    """
    folders = [path for path in (predictions, labels) if path is not None]
    if any(same_place(out, path) for path in folders):
        raise ConfigError(f"{out} is a folder that is read from; choose another one for the repaired predictions")
    fitted = load_fitted(calibrator)
    if fitted.calibrator.image_channels:
        raise ConfigError(f"{calibrator} needs the images; apply it with `predict --calibrator`")
    before = read_json(predictions / INDEX) if (predictions / INDEX).is_file() else {}
    source = _source(before, predictions, fitted, calibrator)
    data = None if config is None else config.data
    known = {} if labels is None else references(labels, data)
    found, ambiguous = find_predictions(predictions, known)
    cases = {name: known.get(name, Case(name, name, ())) for name in sorted({*found, *ambiguous})}
    if not cases:
        raise DataError("no_prediction", f"{predictions} holds no <case>.nii.gz, .npz, .npy or set of class files")
    refuse_fitted_cases(fitted, calibrator, cases.values())
    alike = twins(cases)
    assumed = {"assume_logits": assume_logits, "assume_orientation": assume_orientation}

    def predicted(case: Case) -> Prediction:
        if case.id in ambiguous:
            raise ambiguous[case.id]
        check_case_id(case.id)
        if case.id in alike:
            raise DataError("duplicate_case_id", f"the case id differs from {alike[case.id]} in letter case alone")
        read = read_alone(found[case.id], None if data is None else data.label_map, case.label, **assumed)
        refuse_other_classes(fitted, calibrator, read.label_map, str(found[case.id]))
        logits = torch.from_numpy(as_logits(read.voxels, read.activation, read.channel_names))
        probs = fitted.for_case(case)(logits[None])[0].softmax(0).numpy()
        return Prediction(probs, read.affine, read.label_map)

    return write_predictions(out, source, before.get("split"), cases.values(), predicted, folders, "apply")


def _source(index: dict[str, Any], predictions: Path, fitted: Fitted, calibrator: Path) -> dict[str, Any]:
    """Dataset and method of the repaired predictions. `ConfigError` where `fitted` is not for those of `index`."""
    method = index.get("method", {"name": predictions.name})
    if "calibrator" in method:
        raise ConfigError(
            f"{predictions} was repaired already ({method['name']}); a calibrator fits what the network itself "
            "predicted: apply it to that"
        )
    refuse_other_model(fitted, calibrator, method.get("weights_sha256"), str(predictions))
    name = f"{method['name']} + {fitted.calibrator.name}"
    return {"dataset": index.get("dataset"), "method": {**method, "name": name, "calibrator": described(fitted)}}
