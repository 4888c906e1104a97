"""Validation inside training, on the network's grid: Dice, calibration, and what multipliers observe."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from functools import reduce
from operator import add

import torch
from torch import nn

from medcalib.config import RunConfig
from medcalib.data.labels import IGNORE
from medcalib.data.transforms import Item
from medcalib.engine.inference import window_logits
from medcalib.losses import Objective
from medcalib.metrics import CalibrationCounts, OverlapCounts

log = logging.getLogger(__name__)


def validate(
    model: nn.Module, items: Iterable[Item], config: RunConfig, device: torch.device, observer: Objective | None = None
) -> dict[str, float | None]:
    """Mean foreground Dice over cases (classes absent from a case left out) and pooled ECE of the predicted
    foreground.

    An objective given as `observer` observes every case, so that terms with multipliers are driven by validation
    data; whether and when they step is the loop's business.
    """
    dice, counts = [], [CalibrationCounts.zeros(config.num_classes)]
    for item in items:
        logits, labels = window_logits(model, item["image"], config, device), item["label"]
        if not bool(torch.isfinite(logits).all()):
            log.warning("validation: the network gives logits that are not finite; this epoch is not scored")
            return {"dice": None, "ece_pred_foreground": None}
        if observer is not None and observer.observes:
            observer.observe(logits[None].to(device), labels[None].to(device))
        predicted = logits.argmax(0)
        valid = labels != IGNORE
        foreground = (predicted > 0) & valid
        counts.append(
            CalibrationCounts.from_logits(logits[None], labels[None], mask=foreground[None], ignore_index=IGNORE)
        )
        pair = labels[valid].long() * config.num_classes + predicted[valid]
        confusion = torch.bincount(pair, minlength=config.num_classes**2).reshape(config.num_classes, -1)
        of_case = OverlapCounts.from_confusion(confusion).dice()[1:]
        dice.append(of_case[~of_case.isnan()])
    defined = [float(d.mean()) for d in dice if d.numel()]
    pooled = reduce(add, counts)
    ece = pooled.ece(config.score.bins, config.score.edges)
    return {
        "dice": sum(defined) / len(defined) if defined else None,
        "ece_pred_foreground": ece if pooled.voxels() else None,
    }
