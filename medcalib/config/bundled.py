"""The configs that ship with medcalib, so that `medcalib train acdc` works after `pip install`."""

from __future__ import annotations

from pathlib import Path

import medcalib

_PACKAGE = Path(medcalib.__file__).parent


def bundled() -> dict[str, Path]:
    """Name -> path of every shipped config (inside an installed package, or beside it in a checkout)."""
    folders = (_PACKAGE / "configs", _PACKAGE.parent / "configs")
    found = next((folder for folder in folders if folder.is_dir()), None)
    return {} if found is None else {path.stem: path for path in sorted(found.glob("*.yaml"))}


def resolve(config: str) -> Path:
    """A path as it is; the bare name of a shipped config as its path."""
    path = Path(config)
    return bundled().get(config, path) if not path.exists() else path
