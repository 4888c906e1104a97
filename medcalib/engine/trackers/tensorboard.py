"""Curves for TensorBoard in RUN/tensorboard; the extra `tensorboard`."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from medcalib.engine.trackers.numbers import numbers

FOLDER = "tensorboard"


class TensorBoard:
    """Draws the numbers of metrics.jsonl. Nothing is written before the first line."""

    def __init__(self, run: Path) -> None:
        self.run = run
        self._writer: Any = None

    def start(self, config: Mapping[str, Any], provenance: Mapping[str, Any]) -> None:
        """Nothing: the writer must know its first step."""

    def log(self, line: Mapping[str, Any], step: int) -> None:
        """The numbers of a line by name, at its epoch."""
        if self._writer is None:
            from torch.utils.tensorboard import SummaryWriter

            # a continued run takes the place of what was drawn of epochs that it does again
            self._writer = SummaryWriter(str(self.run / FOLDER), purge_step=step)
        for name, value in numbers(line).items():
            self._writer.add_scalar(name, value, step)
        self._writer.flush()

    def finish(self, status: str) -> None:
        """Close the files."""
        if self._writer is not None:
            self._writer.close()
