"""The names by which services know a run, kept in its folder so that a continued run goes on under the same."""

from __future__ import annotations

from pathlib import Path

from medcalib.files import read_json, write_json

FILE = "trackers.json"


def known(run: Path, service: str) -> str | None:
    """The run's id at a service, None where it has none yet."""
    found = read_json(run / FILE).get(service) if (run / FILE).is_file() else None
    return None if found is None else str(found)


def remember(run: Path, service: str, identity: str) -> None:
    """Keep the run's id at a service."""
    before = read_json(run / FILE) if (run / FILE).is_file() else {}
    write_json(run / FILE, before | {service: identity})
