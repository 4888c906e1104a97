"""Where the edge rule matters: confidences that are multiples of 1/20, as votes of an ensemble are."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from estimators.population import Patient
from estimators.tables import Table
from medcalib.metrics.calibration import Edges
from medcalib.ops.scoring import NUM_CELLS, cell_index

MEMBERS = 20
BINS = (10, 15, 20)
RULES: tuple[Edges, ...] = ("right", "left")


def votes(patients: Sequence[Patient], seed: int, dtype: type[np.floating]) -> Table:
    """One label map of each patient against the most frequent of 20 labels drawn from its posterior."""
    rng, sums = np.random.default_rng(seed), np.zeros((3, NUM_CELLS))
    for patient in patients:
        flat = patient.posterior.reshape(len(patient.posterior), -1).T
        counts = rng.multinomial(MEMBERS, flat / flat.sum(1, keepdims=True))
        confidence = (counts.max(1) / MEMBERS).astype(dtype)
        held = counts.argmax(1) > 0
        hit = (counts.argmax(1) == patient.labels[0])[held].astype(float)
        cell, top = cell_index(confidence[held]), confidence[held].astype(np.float64)
        for row, weights in enumerate((np.ones_like(top), top, hit)):
            sums[row] += np.bincount(cell, weights, minlength=NUM_CELLS)
    return Table(*sums, np.arange(NUM_CELLS))


def edge_rules(patients: Sequence[Patient], seed: int, **names: Any) -> Iterator[dict[str, Any]]:
    """The ECE in `pred_foreground` by edge rule, with probabilities stored in float64 and in float32."""
    for dtype in (np.float64, np.float32):
        table = votes(patients, seed, dtype)
        for bins in BINS:
            for rule in RULES:
                at = table.binned(bins, rule)
                value = float(np.abs(at.gap).sum() / at.n.sum())
                about = {"study": "edges", "predictor": f"votes, {dtype.__name__}", "region": "pred_foreground"}
                yield names | about | {"estimator": f"ece ({bins} bins, {rule})", "value": value}
