"""Curves for TensorBoard: the numbers of metrics.jsonl, drawn while a run goes on; the extra `tensorboard`."""

from __future__ import annotations

from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from medcalib.errors import MissingExtraError

FOLDER = "tensorboard"


class Curves:
    """Adds lines of metrics.jsonl to RUN/tensorboard; does nothing where that is not wanted.

    Raises `MissingExtraError` where it is wanted and the extra is not installed. Nothing is written before
    the first line.
    """

    def __init__(self, run: Path, *, wanted: bool) -> None:
        self.run, self.wanted = run, wanted
        self._writer: Any = None
        if wanted and find_spec("tensorboard") is None:
            raise MissingExtraError("tensorboard", "tensorboard")

    def add(self, line: Mapping[str, Any]) -> None:
        """The numbers of a line by name, at its epoch; the parts of the loss as `parts/NAME`."""
        if not self.wanted:
            return
        if self._writer is None:
            from torch.utils.tensorboard import SummaryWriter

            # a continued run takes the place of what was drawn of epochs that it does again
            self._writer = SummaryWriter(str(self.run / FOLDER), purge_step=line["epoch"])
        parts = {f"parts/{name}": value for name, value in line.get("parts", {}).items()}
        for name, value in {**line, **parts}.items():
            if isinstance(value, (int, float)) and name != "epoch":
                self._writer.add_scalar(name, value, line["epoch"])
        self._writer.flush()
