"""Mean ranks of the methods: over patients for each column, and over columns."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from medcalib.metrics.ranks import Ranks, block_ranks, friedman, groups
from medcalib.report.comparison.columns import Column
from medcalib.report.comparison.study import Study

Numbers = dict[str, Any]


def ranking(study: Study, calibrator: str, columns: Sequence[Column], per_column: Numbers) -> Numbers:
    """Ranks of the methods with one calibrator; methods without a value in a column are not ranked in it."""
    return {
        "by_patient": {c.key: _by_patient(study, calibrator, c, per_column[c.key]) for c in columns},
        "over_columns": _over_columns(study, calibrator, columns, per_column),
    }


def _by_patient(study: Study, calibrator: str, column: Column, found: Numbers) -> Numbers | None:
    models = {m: found["models"][m, calibrator] for m in study.plan.methods}
    methods = [method for method, indices in models.items() if indices]
    if not methods:
        return None
    values = np.stack([found["by_patient"][list(models[method])].mean(0) for method in methods], 1)
    ranks = friedman(values, higher_is_better=column.higher_is_better)
    return None if ranks is None else {"blocks_are": "patients", **_ranked(methods, ranks)}


def _ranked(methods: Sequence[str], ranks: Ranks) -> Numbers:
    limit = ranks.critical_difference
    alike = [] if limit is None else [[methods[k] for k in g] for g in groups(ranks.mean_ranks, limit)]
    return {
        "mean_ranks": dict(zip(methods, ranks.mean_ranks, strict=True)),
        "blocks": ranks.blocks,
        "left_out": ranks.left_out,
        "statistic": ranks.statistic,
        "p": ranks.p,
        "critical_difference": limit,
        "alike": alike,
    }


def _over_columns(study: Study, calibrator: str, columns: Sequence[Column], per_column: Numbers) -> Numbers | None:
    """Every column one block: methods ranked by their value in it. Only methods with a value in each column."""

    def value(method: str, column: Column) -> float | None:
        number: float | None = per_column[column.key]["rows"][method, calibrator]["value"]
        return number

    methods = [m for m in study.plan.methods if columns and all(value(m, c) is not None for c in columns)]
    if not methods:
        return None
    ranks = np.concatenate(
        [
            block_ranks(np.array([[value(m, c) for m in methods]], float), higher_is_better=c.higher_is_better)
            for c in columns
        ]
    )
    by_column = {c.key: dict(zip(methods, row.tolist(), strict=True)) for c, row in zip(columns, ranks, strict=True)}
    means = dict(zip(methods, ranks.mean(0).tolist(), strict=True))
    return {"blocks_are": "columns", "blocks": len(columns), "mean_ranks": means, "ranks": by_column}
