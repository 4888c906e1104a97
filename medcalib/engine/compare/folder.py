"""Where a cell keeps its files, and cell.json: what has become of it."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, NamedTuple

from medcalib.errors import DataError
from medcalib.files import read_json, write_json

CELLS = "cells"
LABEL = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9._=-]{0,62}[A-Za-z0-9_=-])?\Z")  # names a folder
NONE = "none"  # the row of the network without a calibrator


class CellId(NamedTuple):
    """A method's label and a seed."""

    label: str
    seed: int

    def __str__(self) -> str:
        return f"{self.label} seed {self.seed}"


class CellFolder:
    """The folder of one cell: `run`, `<calibrator>.safetensors`, `scores*`, `log.txt`, `cell.json`, `lock`."""

    def __init__(self, out: Path, cell: CellId) -> None:
        self.cell = cell
        self.path = out / CELLS / cell.label / f"seed{cell.seed}"
        self.run, self.log, self.lock = self.path / "run", self.path / "log.txt", self.path / "lock"

    def calibrator(self, name: str) -> Path:
        """The file of a fitted calibrator."""
        return self.path / f"{name}.safetensors"

    def scores(self, row: str) -> Path:
        """The scores of the network itself (`none`) or repaired by a calibrator."""
        return self.path / _named("scores", row)

    def predictions(self, row: str) -> Path:
        """The predictions that are scored."""
        return self.path / _named("predictions", row)

    def state(self) -> dict[str, Any]:
        """The content of cell.json; that of a new cell where there is none, or none that can be read."""
        new: dict[str, Any] = {"method": self.cell.label, "seed": self.cell.seed, "state": "new", "error": None}
        new |= {"device": None, "seconds": {}, "weights_epoch": None, "peak_mib": None, "scores": {}, "refused": 0}
        try:
            found = read_json(self.path / "cell.json")
        except DataError:
            return new
        return new | found if isinstance(found, dict) else new

    def write(self, **changed: Any) -> None:
        """Replace some keys of cell.json."""
        write_json(self.path / "cell.json", self.state() | changed)

    def unscored(self, calibrators: list[str]) -> list[str]:
        """The rows that have no scores yet."""
        noted = self.state()["scores"]
        return [row for row in (NONE, *calibrators) if row not in noted or not self._scored(row)]

    def _scored(self, row: str) -> bool:
        return (self.scores(row) / "scores.json").is_file()  # which is written last

    def is_done(self, calibrators: list[str]) -> bool:
        """Whether nothing is left to do."""
        return self.state()["state"] == "done" and not self.unscored(calibrators)


def _named(what: str, row: str) -> str:
    return what if row == NONE else f"{what}_{row}"
