"""Validation inside training, on the network's grid: Dice, calibration, and what multipliers observe."""

from __future__ import annotations

import logging
from collections.abc import Sequence

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
Scores = dict[str, float | None]


def validate(
    model: nn.Module,
    items: Sequence[Item],
    config: RunConfig,
    device: torch.device,
    observer: Objective | None = None,
    stop: Stop | None = None,
) -> Scores | None:
    """Mean foreground Dice over cases (classes absent from a case left out) and pooled ECE of the predicted
    foreground; the same bits on any number of ranks, each of which has its own `items`.

    An objective given as `observer` observes every case, so that terms with multipliers are driven by validation
    data; whether and when they step is the loop's business. None where `stop` asked to end between two cases.
    """
    stop = stop or Stop()
    dice: list[tuple[int, float]] = []
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
                if len(of_case):
                    dice.append((turn * distributed.ranks() + distributed.rank(), float(of_case.mean())))
                if observer is not None and observer.observes:
                    observer.observe(logits[None].to(device), labels[None].to(device))
        some_broken, stopped = distributed.largest(int(broken), int(stop.signal is not None))
        if some_broken:
            log.warning("validation: the network gives logits that are not finite; this epoch is not scored")
            return {"dice": None, "ece_pred_foreground": None}
        if stopped:
            return None
    return _over_ranks(dice, counts, config)


def _scored(logits: Tensor, labels: Tensor, num_classes: int) -> tuple[Tensor, CalibrationCounts]:
    """Dice of the foreground classes that a case has, and its counts over the predicted foreground."""
    predicted = logits.argmax(0)
    valid = labels != IGNORE
    foreground = (predicted > 0) & valid
    counts = CalibrationCounts.from_logits(logits[None], labels[None], mask=foreground[None], ignore_index=IGNORE)
    pair = labels[valid].long() * num_classes + predicted[valid]
    confusion = torch.bincount(pair, minlength=num_classes**2).reshape(num_classes, -1)
    dice = OverlapCounts.from_confusion(confusion).dice()[1:]
    return dice[~dice.isnan()], counts


def _over_ranks(dice: list[tuple[int, float]], counts: CalibrationCounts, config: RunConfig) -> Scores:
    """Counts are integers, and Dice is summed in the order of the cases: exact for any number of ranks."""
    device = distributed.reduction_device()
    rows = torch.tensor(dice, dtype=torch.float64, device=device).reshape(-1, 2)
    defined = [value for _, value in sorted(distributed.all_gather_rows(rows).tolist())]
    tables = torch.stack([counts.n, counts.correct, counts.conf_hi, counts.conf_lo]).to(device)
    pooled = CalibrationCounts(*distributed.all_reduce_sum(tables).cpu())
    ece = pooled.ece(config.score.bins, config.score.edges)
    return {
        "dice": sum(defined) / len(defined) if defined else None,
        "ece_pred_foreground": ece if pooled.voxels() else None,
    }
