"""Fitting a calibrator to a run, on its validation cases and on nothing else, or to predictions of any tool."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from tqdm import tqdm

import medcalib
from medcalib.calibrators import Calibrator, load
from medcalib.config import RunConfig
from medcalib.config.references import paired
from medcalib.config.schema import ScoreConfig
from medcalib.data.case import Case
from medcalib.data.geometry import voxel_sizes
from medcalib.data.labels import IGNORE, LabelMap
from medcalib.data.load import load_case
from medcalib.data.predictions import (
    INDEX,
    Pair,
    class_order_problem,
    labels_for,
    read_pair,
    without_folders,
)
from medcalib.distributed import resolve_device
from medcalib.engine.fit_samples import FitVolume, Sample, Sampling, sample_of
from medcalib.engine.fitting import Method, cross_fit, fit, parsed_options, scores_of
from medcalib.engine.loader import preprocess_of
from medcalib.engine.predictor import Predictor
from medcalib.engine.run import Weights, cases_of, load_model, open_run
from medcalib.errors import CheckpointError, ConfigError, DataError
from medcalib.files import read_json, require_writable

__all__ = ["FitOptions", "calibrate", "calibrate_predictions"]

SPLIT = "val"


@dataclass(frozen=True)
class FitOptions:
    """What is fitted: method, its options, `sampling` of each case, in how many parts patients are cross-fitted.

    folds 0: no cross-fitting.
    """

    method: str = "temperature"
    options: Mapping[str, Any] = field(default_factory=dict)
    sampling: Sampling = field(default_factory=Sampling)
    folds: int = 0


def calibrate(
    run: Path,
    out: Path,
    *,
    method: str = "temperature",
    options: Mapping[str, Any] | None = None,
    sampling: Sampling | None = None,
    folds: int = 0,
    data: str | None = None,
    device: str = "auto",
    weights: Weights = "best",
) -> Calibrator:
    """Fit `method` on the validation cases of `run` and save it to `out`, with what it was fitted on.

    The logits are those that are scored: on the images' own grids. At most 100,000 voxels of each case are used unless
    `sampling` says otherwise, so that large volumes do not outweigh small ones without bound. `folds`: also fit
    without each part of the patients, which tells how good the repair is for patients that it has not seen.
    `options` are those of the method. Raises `ConfigError` where the fit is impossible, `DataError` for a case without
    a reference.
    """
    _check_out(out)
    config = open_run(run, data)
    sampling = sampling or Sampling()
    if sampling.seed is None:
        sampling = replace(sampling, seed=config.train.seed)
    chosen = FitOptions(method, options or {}, sampling, folds)
    device_ = resolve_device(device)
    model, entry = load_model(run, config, device_, weights)
    predictor = Predictor(config, model, preprocess_of(config), device_)
    cases = cases_of(run, config, SPLIT)
    what = _method(chosen, config.num_classes, config.score)
    volumes = (_of_run(case, predictor, wants_images=what.build().image_channels > 0) for case in _told(cases))
    samples = [sample_of(volume, what.build(), chosen.sampling) for volume in volumes]
    origin = {"source": "run", "weights_sha256": entry["sha256"], "split": SPLIT, "dataset": config.name}
    return _saved(str(run), out, what, samples, chosen, config.data.label_map, origin)


def calibrate_predictions(
    predictions: Path,
    labels: Path,
    out: Path,
    *,
    method: str = "temperature",
    options: Mapping[str, Any] | None = None,
    sampling: Sampling | None = None,
    folds: int = 0,
    config: RunConfig | None = None,
    assume_logits: bool = False,
    assume_orientation: bool = False,
) -> tuple[Calibrator, list[dict[str, str]]]:
    """Fit `method` to predictions of any tool beside their references; returns it and the refused cases.

    Probabilities are taken as log-probabilities, which are logits but for a constant a voxel; where a tool stored an
    exact 0 the smallest number of its type stands in. The cases must be ones that the network was not trained on: the
    files cannot prove that, only predictions of medcalib's own training split are refused. `labels` as in `evaluate`;
    `options`, `sampling` and `folds` as in `calibrate`. Raises `ConfigError`, and `DataError` where no case can be
    fitted on.
    """
    _check_out(out)
    data = None if config is None else config.data
    chosen = FitOptions(method, options or {}, sampling or Sampling(), folds)
    index = _index_of_held_out(predictions)
    pairs, refused, _ = paired(predictions, labels, data)
    score = ScoreConfig() if config is None else config.score
    samples: list[Sample] = []
    label_map: LabelMap | None = None
    what = None
    for pair in _told(pairs):
        try:
            label_map = labels_for(pair.prediction, None if data is None else data.label_map)
            what = what or _without_images(_method(chosen, label_map.num_classes, score))
            volume = _of_pair(pair, label_map, assume_logits=assume_logits, assume_orientation=assume_orientation)
        except DataError as error:
            message = without_folders(str(error), predictions, labels)
            refused.append({"case": pair.case.id, "reason": error.reason, "message": message})
            continue
        samples.append(sample_of(volume, what.build(), chosen.sampling))
    if what is None or label_map is None or not samples:
        listed = "; ".join(f"{entry['case']}: {entry['message']}" for entry in refused[:3])
        raise DataError("no_prediction", f"no case of {predictions} can be fitted on ({listed or 'no prediction'})")
    fitted = _saved(str(predictions), out, what, samples, chosen, label_map, _origin(index, predictions))
    return fitted, sorted(refused, key=lambda entry: entry["case"])


def _index_of_held_out(predictions: Path) -> dict[str, Any]:
    index = read_json(predictions / INDEX) if (predictions / INDEX).is_file() else {}
    if index.get("split") == "train":
        raise ConfigError(f"{predictions} holds predictions of the training split; fit on cases that were held out")
    return index


def _origin(index: Mapping[str, Any], predictions: Path) -> dict[str, Any]:
    """What is known of where the predictions come from."""
    source = index.get("method", {})
    known = {
        "dataset": index.get("dataset"),
        "split": index.get("split"),
        "method": source.get("name", predictions.name),
    }
    return {"source": "predictions", "weights_sha256": source.get("weights_sha256"), **known}


def _without_images(method: Method) -> Method:
    if method.build().image_channels:
        raise ConfigError("image_channels needs the images of a run; predictions come without them")
    return method


def _method(chosen: FitOptions, num_classes: int, score: ScoreConfig) -> Method:
    options = parsed_options(chosen.method, chosen.options)
    return Method(chosen.method, options, num_classes, score.bins, score.edges)


def _told(items: list[Any]) -> Iterator[Any]:
    yield from tqdm(items, "calibrate", leave=False, disable=not sys.stderr.isatty())


def _saved(
    where: str,
    out: Path,
    method: Method,
    samples: list[Sample],
    chosen: FitOptions,
    label_map: LabelMap,
    origin: Mapping[str, Any],
) -> Calibrator:
    """Fit, score, describe and save."""
    used = [sample for sample in samples if sample.voxels]
    sampling = chosen.sampling
    try:
        calibrator = fit(method, used)
        folds, held_out = cross_fit(method, used, chosen.folds, sampling.seed or 0) if chosen.folds else (None, None)
    except ValueError as error:
        raise ConfigError(f"{where}: {method.name} cannot be fitted: {error}") from error
    calibrator.facts = {
        **origin,
        "software": f"medcalib {medcalib.__version__}",
        "classes": list(label_map.class_names),
        "cases": [sample.case.id for sample in samples],
        "patients": {sample.case.id: sample.case.patient_id for sample in samples},
        "voxels": sum(sample.voxels for sample in used),
        "voxels_per_case": sampling.voxels,
        "region": sampling.region,
        "seed": sampling.seed or 0,
        "before": scores_of([(None, sample) for sample in used], method),
        "after": scores_of([(calibrator, sample) for sample in used], method),
        "held_out": held_out,
        "folds": folds,
    }
    calibrator.save(out)
    return calibrator


def _of_run(case: Case, predictor: Predictor, *, wants_images: bool) -> FitVolume:
    data = predictor.config.data
    loaded = load_case(case, data.label_map, nonfinite=data.nonfinite)
    if loaded.label is None:
        raise DataError("missing_reference", f"{case.id}: no reference label to fit on")
    images = predictor.normalized(loaded) if wants_images else None
    return FitVolume(case, predictor.logits(loaded), torch.from_numpy(loaded.label), loaded.spacing_mm, images)


def _of_pair(pair: Pair, label_map: LabelMap, **assumed: bool) -> FitVolume:
    if pair.case.labelled_classes is not None:
        raise DataError(
            "partial_labels", f"{pair.case.id} has labels of some classes only; fit on fully labelled cases"
        )
    with read_pair(pair, label_map, **assumed) as compared:
        logits = torch.from_numpy(compared.logits)
        label = compared.label
        problem = class_order_problem(_confusion(logits, label), label_map.class_names)
        if problem is not None:
            raise DataError("class_order", f"{pair.prediction}: {problem}")
        if compared.outside is not None:
            label = np.where(compared.outside, IGNORE, label)  # filled in by the tool, not predicted
        return FitVolume(pair.case, logits, torch.from_numpy(label), voxel_sizes(compared.affine))


def _confusion(logits: torch.Tensor, label: NDArray[np.uint8]) -> NDArray[np.int64]:
    """Voxels (C, C), reference x prediction."""
    classes = len(logits)
    known = label != IGNORE
    cells = label[known].astype(np.int64) * classes + logits.argmax(0).numpy()[known]
    return np.bincount(cells, minlength=classes**2).reshape(classes, classes)


def _check_out(out: Path) -> None:
    """Fail now, not after the fit, where `out` cannot be written, or is no calibrator. `ConfigError`, `OSError`."""
    if out.is_dir():
        raise ConfigError(f"{out} is a folder; name a file in it, such as {out / 'temperature.safetensors'}")
    if not out.is_symlink() and out.exists() and out.stat().st_size:  # a link is replaced, its target stays
        try:
            load(out)
        except CheckpointError as error:
            raise ConfigError(f"{out} exists and is no calibrator; choose another file, or remove it") from error
    require_writable(out)
