"""Validation inside training, on the network's grid: Dice, calibration, and what multipliers observe."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from medcalib import distributed
from medcalib.config import RunConfig
from medcalib.data.labels import IGNORE
from medcalib.data.transforms import Item
from medcalib.engine.inference import window_logits
from medcalib.engine.signals import Stop
from medcalib.losses import Objective
from medcalib.metrics import CalibrationCounts, OverlapCounts

log = logging.getLogger(__name__)
Scores = dict[str, Any]


def validate(
    model: nn.Module,
    items: Sequence[Item],
    config: RunConfig,
    device: torch.device,
    observer: Objective | None = None,
    stop: Stop | None = None,
) -> Scores | None:
    """`dice`, the mean foreground Dice over cases (classes absent from a case left out), `ece_pred_foreground`, the
    pooled ECE of the predicted foreground, and `dice_by_class`, the mean over cases by name; None without a case. The
    same bits on any number of ranks, each of which has its own `items`.

    An objective given as `observer` observes every case, so that terms with multipliers are driven by validation
    data; whether and when they step is the loop's business. None where `stop` asked to end between two cases.
    """
    stop = stop or Stop()
    dice: list[list[float]] = []
    counts = CalibrationCounts.zeros(config.num_classes)
    turns = distributed.largest(len(items))[0]
    for turn in range(turns):  # as many on every rank, so that all end together
        broken = False
        if turn < len(items):
            logits, labels = window_logits(model, items[turn]["image"], config, device), items[turn]["label"]
            broken = not bool(torch.isfinite(logits).all())
            if not broken:
                of_case, found = _scored(logits, labels, config.num_classes)
                counts += found
                dice.append([turn * distributed.ranks() + distributed.rank(), *of_case.tolist()])
                if observer is not None and observer.observes:
                    observer.observe(logits[None].to(device), labels[None].to(device))
        some_broken, stopped = distributed.largest(int(broken), int(stop.signal is not None))
        if some_broken:
            log.warning(
                "validation: the network gives NaN or infinity; this epoch is not scored. If it goes on, lower train.lr"
            )
            return {"dice": None, "ece_pred_foreground": None, "dice_by_class": {}}
        if stopped:
            return None
    return _over_ranks(dice, counts, config)


def _scored(logits: Tensor, labels: Tensor, num_classes: int) -> tuple[Tensor, CalibrationCounts]:
    """Dice of the foreground classes, NaN where a case lacks one, and its counts over the predicted foreground."""
    predicted = logits.argmax(0)
    valid = labels != IGNORE
    foreground = (predicted > 0) & valid
    counts = CalibrationCounts.from_logits(logits[None], labels[None], mask=foreground[None], ignore_index=IGNORE)
    pair = labels[valid].long() * num_classes + predicted[valid]
    confusion = torch.bincount(pair, minlength=num_classes**2).reshape(num_classes, -1)
    return OverlapCounts.from_confusion(confusion).dice()[1:], counts


def _over_ranks(dice: list[list[float]], counts: CalibrationCounts, config: RunConfig) -> Scores:
    """Counts are integers, and Dice is summed in the order of the cases: exact for any number of ranks."""
    device = distributed.reduction_device()
    rows = torch.tensor(dice, dtype=torch.float64, device=device).reshape(-1, config.num_classes)
    rows = distributed.all_gather_rows(rows).cpu()
    table = rows[rows[:, 0].argsort(), 1:]  # cases x foreground classes
    means = [_mean(case) for case in table]
    tables = torch.stack([counts.n, counts.correct, counts.conf_hi, counts.conf_lo]).to(device)
    pooled = CalibrationCounts(*distributed.all_reduce_sum(tables).cpu())
    ece = pooled.ece(config.score.bins, config.score.edges)
    return {
        "dice": _mean(torch.tensor([mean for mean in means if mean is not None], dtype=torch.float64)),
        "ece_pred_foreground": ece if pooled.voxels() else None,
        "dice_by_class": {name: _mean(of) for name, of in zip(config.data.class_names[1:], table.T, strict=True)},
    }


def _mean(values: Tensor) -> float | None:
    """Of what is defined, in order."""
    defined = values[~values.isnan()].tolist()
    return sum(defined) / len(defined) if defined else None
