"""Packages whose names are imported on first use."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from importlib import import_module
from typing import Any


def lazily(package: str, names: Sequence[str], **homes: str) -> Callable[[str], Any]:
    """The `__getattr__` of `package`, which Python asks for what the package does not hold yet.

    `homes`: the modules, by name, that hold an object; everything else in `names` is a module of the package. Raises
    AttributeError for any other name.
    """

    def find(name: str) -> Any:
        if name in homes:
            return getattr(import_module(f"{package}.{homes[name]}"), name)
        if name in names:
            return import_module(f"{package}.{name}")
        raise AttributeError(f"module {package!r} has no attribute {name!r}")

    return find
