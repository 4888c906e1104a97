"""What a deprecated name says, and for how long it stays: two minor releases at least (docs/stability.md).

@typing_extensions.deprecated(notice("medcalib.metrics.old", since="0.1", use="medcalib.metrics.new"))
def old() -> None: ...
"""

from __future__ import annotations


def notice(what: str, *, since: str, use: str) -> str:
    """`what` is deprecated since a version, what to use in its place, and the first release without it.

    `since` is a version "major.minor"; the name goes two minor releases later. Raises ValueError for anything else.
    """
    major, dot, minor = since.partition(".")
    if not (dot and major.isdecimal() and minor.isdecimal()):
        raise ValueError(f'since must be a version such as "0.1", got {since!r}')
    return f"{what} is deprecated since {since}; use {use}. It will be removed in {major}.{int(minor) + 2}"
