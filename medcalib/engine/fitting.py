"""Fitting a calibrator to samples of held-out cases, scores before and after, and cross-fitting by patient."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from medcalib import calibrators
from medcalib.calibrators import Calibrator
from medcalib.engine.fit_samples import Sample, rows
from medcalib.errors import ConfigError
from medcalib.metrics import CalibrationCounts
from medcalib.metrics.calibration import Edges
from medcalib.options import check_option, suggestion

Scores = dict[str, float | None]
REGIONS = ("all", "foreground", "pred_foreground")


@dataclass(frozen=True)
class Method:
    """A calibrator by name with its options, for a number of classes; bins and edge rule of the ECE that is told."""

    name: str
    options: Mapping[str, Any]
    num_classes: int
    bins: int = 15
    edges: Edges = "right"

    def build(self) -> Calibrator:
        """An unfitted one. Raises `ConfigError`."""
        try:
            return calibrators.build(self.name, self.num_classes, **self.options)
        except ValueError as error:
            raise ConfigError(str(error)) from error


def fit(method: Method, samples: Sequence[Sample]) -> Calibrator:
    """Fit to all voxels of the samples. Raises ValueError where that is impossible."""
    blocks = list(rows(list(samples)))
    calibrator = method.build()
    images = [sample.images[k] for sample, k in blocks if sample.images is not None]
    return calibrator.fit(
        [sample.logits[k] for sample, k in blocks],
        [sample.labels[k] for sample, k in blocks],
        mask=[sample.masks[k] for sample, k in blocks],
        images=images or None,
    )


def scores_of(pairs: Sequence[tuple[Calibrator | None, Sample]], method: Method) -> Scores:
    """NLL in nats and ECE by region over the samples, each seen through its calibrator (None: as it is)."""
    lost, voxels = 0.0, 0
    counts = {region: CalibrationCounts.zeros(method.num_classes) for region in REGIONS}
    for calibrator, sample in pairs:
        for _, k in rows([sample]):
            logits, labels = _seen(calibrator, sample, k)
            lost += float(cross_entropy(logits.double(), labels, reduction="sum"))
            voxels += len(labels)
            predicted = logits.argmax(1) > 0
            masks = (torch.ones_like(predicted), predicted | (labels > 0), predicted)
            for region, mask in zip(REGIONS, masks, strict=True):
                counts[region] += CalibrationCounts.from_logits(logits.T[None], labels[None], mask=mask[None])
    found: Scores = {"nll": lost / voxels}
    for region, count in counts.items():
        found[f"ece_{region}"] = count.ece(method.bins, method.edges) if count.voxels() else None
    return found


def cross_fit(method: Method, samples: Sequence[Sample], folds: int, seed: int) -> tuple[list[Any], Scores]:
    """For each part of the patients the calibrator that was fitted on the others, and the scores of all cases seen
    through the one that knows nothing of their patient.

    Returns [{patients, parameters}] and the scores. Raises ValueError where a fit is impossible.
    """
    parts = fold_patients({sample.case.patient_id for sample in samples}, folds, seed)
    fitted, pairs = [], []
    for held_out in parts:
        calibrator = fit(method, [sample for sample in samples if sample.case.patient_id not in held_out])
        parameters = {key: value.tolist() for key, value in calibrator.state_dict().items()}
        fitted.append({"patients": held_out, "parameters": parameters})
        pairs += [(calibrator, sample) for sample in samples if sample.case.patient_id in held_out]
    return fitted, scores_of(pairs, method)


def fold_patients(patients: set[str], folds: int, seed: int) -> list[list[str]]:
    """The patients in `folds` parts of nearly one size. Raises ValueError for fewer patients than parts."""
    if not 2 <= folds <= len(patients):
        raise ValueError(
            f"{folds} folds of {len(patients)} patients: expected 2 to {len(patients)} folds, or 0 for none"
        )
    ordered = sorted(patients)
    order = torch.randperm(len(ordered), generator=torch.Generator().manual_seed(seed)).tolist()
    return [sorted(ordered[k] for k in order[part::folds]) for part in range(folds)]


def parsed_options(name: str, options: Mapping[str, Any]) -> dict[str, Any]:
    """Options that the method has, of the types that it asks for. Raises `ConfigError`."""
    try:
        if name not in calibrators.CALIBRATORS:
            raise ValueError(f"unknown calibrator {name!r}; {suggestion(name, calibrators.names())}")
        known = calibrators.parameters(name)
        for key, value in options.items():
            if key not in known:
                raise ValueError(
                    f"{name} has no option {key}; {suggestion(key, list(known)) if known else 'it has none'}"
                )
            check_option(key, value, known[key].annotation)
    except ValueError as error:
        raise ConfigError(str(error)) from error
    return dict(options)


def _seen(calibrator: Calibrator | None, sample: Sample, k: int) -> tuple[Tensor, Tensor]:
    """Logits (n, C) and labels (n,) of the used voxels of a block."""
    logits, used = sample.logits[k], sample.masks[k]
    if calibrator is not None:
        logits = calibrator(logits, None if sample.images is None else sample.images[k])
    return logits.movedim(1, -1)[used], sample.labels[k][used].long()
