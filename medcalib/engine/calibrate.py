"""Fitting a calibrator to a run, on its validation cases and on nothing else."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy
from tqdm import tqdm

from medcalib import calibrators
from medcalib.calibrators import Calibrator
from medcalib.config import RunConfig
from medcalib.data.labels import IGNORE
from medcalib.data.load import load_case
from medcalib.distributed import resolve_device
from medcalib.engine.inference import window_logits
from medcalib.engine.loader import preprocess_of
from medcalib.engine.run import Weights, cases_of, load_model, open_run
from medcalib.errors import ConfigError
from medcalib.metrics import CalibrationCounts

SPLIT = "val"
VOXELS_PER_CASE = 100_000


def calibrate(
    run: Path,
    out: Path,
    *,
    method: str = "temperature",
    data: str | None = None,
    device: str = "auto",
    weights: Weights = "best",
) -> Calibrator:
    """Fit `method` on the validation cases of `run` and save it to `out`, with what it was fitted on.

    At most 100,000 voxels of each case are used, drawn with the run's seed, so that large volumes do not outweigh
    small ones without bound. Raises `ConfigError` where the fit is impossible.
    """
    config = open_run(run, data)
    chosen = resolve_device(device)
    model, entry = load_model(run, config, chosen, weights)
    cases = cases_of(run, config, SPLIT)
    logits, labels = zip(*_voxels(cases, model, config, chosen), strict=True)
    pooled, truth = torch.cat(logits), torch.cat(labels)
    try:
        fitted = calibrators.build(method, config.num_classes).fit(pooled, truth)
    except ValueError as error:
        raise ConfigError(f"{run}: {method} cannot be fitted: {error}") from error
    fitted.facts = {
        "weights_sha256": entry["sha256"],
        "split": SPLIT,
        "cases": [case.id for case in cases],
        "voxels": len(truth),
        "before": _scores(pooled, truth, config),
        "after": _scores(fitted(pooled), truth, config),
    }
    fitted.save(out)
    return fitted


def load_for(run: Path, path: Path, weights_sha256: str, cases: list[str]) -> Calibrator:
    """A calibrator that was fitted to just these weights and on none of these cases, or a refusal."""
    calibrator = calibrators.load(path)
    if calibrator.facts.get("weights_sha256") != weights_sha256:
        raise ConfigError(f"{path} was fitted to other weights than those of {run}; fit it to this run")
    shared = sorted(set(cases) & set(calibrator.facts.get("cases", [])))
    if shared:
        raise ConfigError(
            f"{path} was fitted on {', '.join(shared[:3])} ({len(shared)} of these cases); scores of them would be "
            "too good. Predict another split"
        )
    return calibrator


def _voxels(
    cases: list[Any], model: torch.nn.Module, config: RunConfig, device: torch.device
) -> Iterator[tuple[Tensor, Tensor]]:
    """logits (N, C) and labels (N,) of a seeded sample of each case's valid voxels."""
    preprocess, data = preprocess_of(config), config.data
    generator = torch.Generator().manual_seed(config.train.seed)
    for case in tqdm(cases, "calibrate", leave=False, disable=not sys.stderr.isatty()):
        item = preprocess(load_case(case, data.label_map, nonfinite=data.nonfinite))
        flat = window_logits(model, item["image"], config, device).flatten(1).T
        labels = item["label"].flatten()
        valid = (labels != IGNORE).nonzero()[:, 0]
        kept = valid[torch.randperm(len(valid), generator=generator)[:VOXELS_PER_CASE]]
        yield flat[kept], labels[kept].long()


def _scores(logits: Tensor, labels: Tensor, config: RunConfig) -> dict[str, float | None]:
    """NLL in nats, and ECE over all fitting voxels and over those predicted as foreground."""
    found: dict[str, float | None] = {"nll": float(cross_entropy(logits.double(), labels))}
    predicted = logits.argmax(1)
    for region, mask in (("all", torch.ones_like(predicted, dtype=torch.bool)), ("pred_foreground", predicted > 0)):
        counts = CalibrationCounts.from_logits(logits.T[None], labels[None], mask=mask[None])
        found[f"ece_{region}"] = counts.ece(config.score.bins, config.score.edges) if counts.voxels() else None
    return found
