"""Which image lies below the maps of a case."""

from __future__ import annotations

from pathlib import Path

from medcalib.config import RunConfig
from medcalib.config.dataset import scan


def underlays(config: RunConfig) -> dict[str, Path]:
    """Case id -> first image of each case in the config's data folder."""
    cases, _ = scan(config.data, config.root)
    return {case.id: case.images[0] for case in cases}
