"""Reference labels of predictions: by a dataset's config, or a flat folder of `<case>.nii.gz`."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from medcalib.config.dataset import scan
from medcalib.config.schema import DataConfig
from medcalib.data.case import Case
from medcalib.data.check import require
from medcalib.data.predictions import flat_references


def references(labels: Path, data: DataConfig | None) -> Mapping[str, Case]:
    """Case id -> case with its reference label."""
    if data is None:
        return flat_references(labels)
    cases, problems = scan(data, labels)
    if not cases:
        require(problems)
    return {case.id: case for case in cases}
