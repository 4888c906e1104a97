"""Probabilities of a trained run on the images' own grids."""

from __future__ import annotations

import logging
import sys
from pathlib import Path
from typing import Any

import torch
from torch import nn
from tqdm import tqdm

import medcalib
from medcalib.config import RunConfig
from medcalib.data.case import Case
from medcalib.data.load import load_case
from medcalib.data.predictions import INDEX, write_prediction
from medcalib.data.transforms import Preprocess, to_native
from medcalib.distributed import resolve_device
from medcalib.engine.inference import window_logits
from medcalib.engine.loader import preprocess_of
from medcalib.engine.run import cases_of, load_model, open_run
from medcalib.errors import ConfigError, DataError
from medcalib.files import read_json, write_json

log = logging.getLogger(__name__)


def predict(
    run: Path, out: Path, *, split: str = "test", data: str | None = None, device: str = "auto"
) -> dict[str, Any]:
    """Predict the cases of one split of the run into `out`; returns the index that is written there.

    A case that is refused is recorded with its reason, the others go on.
    """
    config = open_run(run, data)
    cases = cases_of(run, config, split)
    chosen = resolve_device(device)
    model, weights = load_model(run, config, chosen)
    index: dict[str, Any] = {
        "dataset": config.name,
        "split": split,
        "cases": [case.id for case in cases],
        "method": method_of(config) | {"weights_sha256": weights["sha256"], "epoch": weights["epoch"]},
        "software": f"medcalib {medcalib.__version__}",
        "refused": [],
    }
    _claim(out, index)
    preprocess = preprocess_of(config)
    for case in tqdm(cases, "predict", leave=False, disable=not sys.stderr.isatty()):
        try:
            _predict_case(case, model, preprocess, config, chosen, out, index)
        except DataError as error:
            log.warning("refused: %s", error)
            index["refused"].append({"case": case.id, "reason": error.reason, "message": str(error)})
    write_json(out / INDEX, index)
    return index


def method_of(config: RunConfig) -> dict[str, Any]:
    """The name of a method in tables, and every setting that made it; no path, since results travel."""
    settings = config.model_dump(mode="json", include={"loss", "model", "train", "preprocess", "augment", "predict"})
    return {"name": config.loss.name, **settings}


def _claim(out: Path, index: dict[str, Any]) -> None:
    """Write the index first, so that a crash leaves missing cases known; refuse a folder of other predictions."""
    if (out / INDEX).is_file():
        before = read_json(out / INDEX)
        if any(before.get(key) != index[key] for key in ("method", "split", "dataset")):
            raise ConfigError(f"{out} holds predictions of another run or split; choose another --out")
    write_json(out / INDEX, index)


def _predict_case(
    case: Case,
    model: nn.Module,
    preprocess: Preprocess,
    config: RunConfig,
    device: torch.device,
    out: Path,
    index: dict[str, Any],
) -> None:
    loaded = load_case(case, config.data.label_map, nonfinite=config.data.nonfinite, with_label=False)
    item = preprocess(loaded)
    logits = window_logits(model, item["image"], config, device)
    native = to_native(logits, item["affine"], loaded.affine, loaded.image.shape[1:])
    probs = torch.from_numpy(native).softmax(0).numpy()
    sidecar = {key: index[key] for key in ("dataset", "method", "software")}
    write_prediction(out, case, probs, loaded.affine, config.data.label_map, sidecar)
