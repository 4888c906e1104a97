"""The configs that ship with medcalib, so that `medcalib train acdc` works after `pip install`."""

from __future__ import annotations

from pathlib import Path

import medcalib
from medcalib.errors import ConfigError
from medcalib.options import suggestion

__all__ = ["bundled", "resolve"]

_PACKAGE = Path(medcalib.__file__).parent


def bundled() -> dict[str, Path]:
    """Name -> path of every shipped config (inside an installed package, or beside it in a checkout)."""
    folders = (_PACKAGE / "configs", _PACKAGE.parent / "configs")
    found = next((folder for folder in folders if folder.is_dir()), None)
    return {} if found is None else {path.stem: path for path in sorted(found.glob("*.yaml"))}


def resolve(config: str) -> Path:
    """A path as it is; the bare name of a shipped config as its path, also beside a folder of that name.

    Raises `ConfigError` for a name that is neither.
    """
    path, known = Path(config), bundled()
    if path.is_file() or path.suffix or path.name != config:
        return path
    if config not in known:
        if path.is_dir():
            raise ConfigError(
                f"{config}: is a folder; name the YAML file of a config, or a shipped one (`medcalib datasets`)"
            )
        raise ConfigError(f"{config}: no such file, and no shipped config; {suggestion(config, list(known))}")
    return known[config]
