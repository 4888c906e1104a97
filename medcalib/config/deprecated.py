"""Keys of earlier versions that are still read: told once a config, at their place, with what to write instead."""

from __future__ import annotations

import logging
from typing import NamedTuple

from medcalib.config.messages import dotted
from medcalib.config.reader import KeyPath, Source
from medcalib.deprecation import notice

log = logging.getLogger(__name__)


class Deprecated(NamedTuple):
    """The version since which a key is deprecated, and what takes its place; the models convert it."""

    since: str
    use: str


KEYS: dict[KeyPath, Deprecated] = {("train", "tensorboard"): Deprecated("0.1", "train.trackers: [tensorboard]")}


def tell(source: Source) -> None:
    """One warning in the log, hence on the terminal, for each deprecated key of a config."""
    for path, (since, use) in KEYS.items():
        if path in source.places:
            log.warning("warning: %s: %s", source.place(path), notice(dotted(path), since=since, use=use))
