"""Mutants that no test can or should notice: (module, before, after) -> why."""

from __future__ import annotations

EXPLAINED: dict[tuple[str, str, str], str] = {}
