"""The targets by name."""

from __future__ import annotations

from pathlib import Path

TARGETS = ("config", "nifti", "arrays", "sidecar")
CORPUS = Path(__file__).parent / "corpus"


def seeds(target: str) -> list[Path]:
    """The committed inputs of a target."""
    return sorted((CORPUS / target).iterdir())
