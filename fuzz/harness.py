"""What the targets share: what counts as a finding.

A reader gives a value, or refuses with an error of medcalib's own that says why. Anything else is a finding: another
exception (an allocation beyond the limit of `fuzz.one` shows as one), more than 5 s of CPU time, a message that would
steer a terminal or a log.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Protocol, TypeVar

from medcalib.errors import MedcalibError

SECONDS = 5.0
T = TypeVar("T")


class FindingError(Exception):
    """An input that is not handled as promised."""


class Check(Protocol):
    """Reads `data` in every way that the target knows; `folder` is for its files. Raises on a finding."""

    def __call__(self, data: bytes, folder: Path) -> None: ...


def attempt(read: Callable[[], T]) -> T | None:
    """What `read` gives, or None where it refuses."""
    started = time.process_time()
    try:
        return read()
    except MedcalibError as error:
        text = str(error)
        if not text or not all(c.isprintable() or c == "\n" for c in text):
            raise FindingError(f"a message that is empty or holds control characters: {text[:200]!r}") from error
        return None
    finally:
        spent = time.process_time() - started
        if spent > SECONDS:
            raise FindingError(f"{spent:.1f} s of CPU time")


def equal(a: object, b: object, what: str) -> None:
    """A finding unless both are the same."""
    if a != b:
        raise FindingError(f"{what}: {a!r} and {b!r}")
