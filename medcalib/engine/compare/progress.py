"""A line for every finished cell: its scores, how long it took, and when the rest will be done."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from medcalib.engine.compare.folder import NONE, CellFolder, CellId
from medcalib.errors import DataError
from medcalib.files import read_json

log = logging.getLogger(__name__)


class Progress:
    """Counts the cells of a call: `cells` in all, `done` before it began, on so many `slots`."""

    def __init__(self, cells: int, done: int, slots: int) -> None:
        self.cells, self.slots = cells, slots
        self.finished, self.took = done, list[float]()

    def begin(self, devices: Sequence[str], jobs: int) -> None:
        """What is to be done."""
        left = self.cells - self.finished
        log.info("%d cells, %d done; %d to do on %s, %d at once each", self.cells, self.finished, left,
                 ", ".join(devices), jobs)  # fmt: skip

    def done(self, folder: CellFolder, seconds: float, left: tuple[int, float]) -> None:
        """A cell is finished. `left`: cells that are not, and seconds that those at work have taken."""
        self.finished += 1
        self.took.append(seconds)
        told = f"{folder.cell}: {_numbers(folder)}; {seconds:.0f} s"
        log.info("%s  [%d/%d%s]", told, self.finished, self.cells, self._eta(*left))

    def failed(self, cell: CellId, error: str, log_file: Path) -> None:
        """A cell has failed."""
        self.finished += 1
        log.warning("%s FAILED: %s\n  its output: %s", cell, error.splitlines()[0] if error else "", log_file)

    def _eta(self, left: int, underway_s: float) -> str:
        if not left:
            return ""
        mean = sum(self.took) / len(self.took)
        seconds = max(mean * left - underway_s, 0.0) / min(self.slots, left)
        return f", about {duration(seconds)} left"


def duration(seconds: float) -> str:
    """`40 s`, `12 min` or `3.5 h`."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def _numbers(folder: CellFolder) -> str:
    """Dice and ECE of the network itself."""
    try:
        scores = read_json(folder.scores(NONE) / "scores.json")
    except DataError as error:
        return str(error)
    told = [f"Dice {_number(_at(scores, 'mean', 'dice', 'foreground', 'value'))}"]
    regions = [name for name in ("all", "pred_foreground") if name in scores["pooled"]]
    told += [f"ECE {name} {_number(_at(scores, 'pooled', name, 'ece'))}" for name in regions]
    if scores["n_scored"] < scores["n_expected"]:
        told.append(f"{scores['n_expected'] - scores['n_scored']} of {scores['n_expected']} cases refused")
    return ", ".join(told)


def _at(found: Any, *keys: str) -> Any:
    for key in keys:
        found = found.get(key) if isinstance(found, Mapping) else None
    return found


def _number(value: Any) -> str:
    return f"{value:.4f}" if isinstance(value, int | float) else "-"
