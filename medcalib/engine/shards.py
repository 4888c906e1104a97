"""Shards of a scoring run: which cases belong to which."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from medcalib.errors import ConfigError

__all__ = ["Shard"]

_FILE = re.compile(r"shard-(\d+)-of-(\d+)\.json", re.ASCII)


@dataclass(frozen=True)
class Shard:
    """Part `index` of `count`, counted from 0 as the array tasks of schedulers are. Raises `ConfigError`."""

    index: int
    count: int

    def __post_init__(self) -> None:
        if self.count < 1 or not 0 <= self.index < self.count:
            last = max(self.count, 1)
            raise ConfigError(
                f"there is no shard {self}: shards are counted from 0, {last} of them are 0/{last} to {last - 1}/{last}"
            )

    @classmethod
    def parse(cls, text: str) -> Shard:
        """The shard of the text `i/N`. `ConfigError` for any other."""
        found = re.fullmatch(r"(-?\d{1,9})/(-?\d{1,9})", text.strip(), re.ASCII)
        if found is None:
            raise ConfigError(f"shard {text!r}: expected i/N with i from 0 to N-1, such as 0/4")
        return cls(int(found[1]), int(found[2]))

    def of(self, cases: Sequence[str]) -> Sequence[str]:
        """Every `count`-th of the sorted cases: disjoint, without padding, neighbors (often one patient) apart."""
        return cases[self.index :: self.count]

    @property
    def file(self) -> str:
        """Name of its summary in the scores folder."""
        return f"shard-{self.index}-of-{self.count}.json"

    def __str__(self) -> str:
        return f"{self.index}/{self.count}"


def shard_files(folder: Path) -> dict[Path, Shard]:
    """The summaries of shards in a scores folder."""
    named = ((path, _FILE.fullmatch(path.name)) for path in sorted(folder.glob("shard-*.json")))
    numbers = {path: (int(found[1]), int(found[2])) for path, found in named if found is not None}
    return {path: Shard(index, count) for path, (index, count) in numbers.items() if index < count}
