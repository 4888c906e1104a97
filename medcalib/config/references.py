"""Predictions and the reference labels that belong to them, by a dataset's config or from a flat folder."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from medcalib.config.dataset import scan
from medcalib.config.schema import DataConfig
from medcalib.data.case import Case
from medcalib.data.check import require
from medcalib.data.predictions import Pair, expected_cases, flat_references, pair_up, same_classes
from medcalib.files import require_folder


def references(labels: Path, data: DataConfig | None) -> Mapping[str, Case]:
    """Case id -> case with its reference label."""
    if data is None:
        return flat_references(labels)
    cases, problems = scan(data, labels)
    require(p for p in problems if not cases or p.reason == "duplicate_case_id")  # whose label would it be?
    return {case.id: case for case in cases}


def paired(predictions: Path, labels: Path, data: DataConfig | None) -> tuple[list[Pair], list[dict[str, str]], str]:
    """Pairs, refused cases with their reasons, and how it is known which cases are expected."""
    require_folder(predictions, "predictions", "--predictions")  # named before a large dataset is scanned
    known = references(labels, data)
    expected, source = expected_cases(predictions, known, flat=data is None)
    pairs, refused = pair_up(predictions, known, expected)
    if data is None:
        pairs, differing = same_classes(pairs)
        refused += differing
    return pairs, refused, source
