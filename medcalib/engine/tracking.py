"""Following a run: who is told of each line of metrics.jsonl, and why none of them can end a training."""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Protocol

from medcalib.config import RunConfig
from medcalib.distributed import is_main
from medcalib.engine.status import word_of
from medcalib.errors import MissingExtraError

__all__ = ["Tracker", "shareable"]

log = logging.getLogger(__name__)
LONGEST_WAIT = 32  # lines between two tries of a tracker that fails again and again
_LEFT_OUT = {"data": ("root", "exclude", "layout"), "split": ("train", "val", "test"), "train": ("cache_dir",)}


class Tracker(Protocol):
    """Anyone who follows a run. Only rank 0 calls; whatever a method raises is told once and ends nothing."""

    def start(self, config: Mapping[str, Any], provenance: Mapping[str, Any]) -> None:
        """Before the first line of a start: `shareable` config, and as `provenance` what `Provenance.summary` gives."""

    def log(self, line: Mapping[str, Any], step: int) -> None:
        """A line of metrics.jsonl; `step` is its epoch."""

    def finish(self, status: str) -> None:
        """How it ended: a word of status.json."""


def wanted(config: RunConfig, run: Path) -> list[Tracker]:
    """The trackers that `train.trackers` names. Raises `MissingExtraError` where one is not installed."""
    names = tuple(dict.fromkeys(config.train.trackers))
    for name in names:
        spec = find_spec(name)
        if spec is None or spec.origin is None:  # a folder of that name, which is no package
            raise MissingExtraError(name, name)
    return [_BUILD[name](run) for name in names]


def _tensorboard(run: Path) -> Tracker:
    from medcalib.engine.trackers.tensorboard import TensorBoard

    return TensorBoard(run)


def _wandb(run: Path) -> Tracker:
    from medcalib.engine.trackers.wandb import WandB

    return WandB(run)


def _mlflow(run: Path) -> Tracker:
    from medcalib.engine.trackers.mlflow import MLflow

    return MLflow(run)


_BUILD: dict[str, Callable[[Path], Tracker]] = {"tensorboard": _tensorboard, "wandb": _wandb, "mlflow": _mlflow}


def shareable(config: RunConfig) -> dict[str, Any]:
    """The config as plain values, without what may name a place or a patient.

    Left out: `data.root`, `data.exclude`, `train.cache_dir`, the options of the layout, and cases that the split lists.
    """
    values = config.model_dump(mode="json")
    for part, keys in _LEFT_OUT.items():
        values[part] = {key: value for key, value in values[part].items() if key not in keys or key == "name"}
    values["data"]["layout"] = config.data.layout.name
    return values


class Trackers:
    """Feeds trackers. A line that one could not take is kept and tried again, ever less often."""

    def __init__(self, trackers: Sequence[Tracker]) -> None:
        self._guarded = [_Guarded(tracker) for tracker in trackers]

    def start(self, config: Mapping[str, Any], provenance: Mapping[str, Any]) -> None:
        """Tell all that a run starts or goes on."""
        for guarded in self._guarded:
            guarded.start(config, provenance)

    def log(self, line: Mapping[str, Any], step: int) -> None:
        """Tell all of a line."""
        for guarded in self._guarded:
            guarded.log(line, step)

    def finish(self, status: str) -> None:
        """Tell all how it ended."""
        for guarded in self._guarded:
            guarded.finish(status)

    @contextmanager
    def told_the_end(self) -> Iterator[None]:
        """Tell all how the block ended, on rank 0."""
        status = "finished"
        try:
            yield
        except BaseException as error:
            status = word_of(error)
            raise
        finally:
            if is_main():
                self.finish(status)


class _Guarded:
    """One tracker whose failures end nothing."""

    def __init__(self, tracker: Tracker) -> None:
        self.tracker = tracker
        self.pending: deque[Callable[[], None]] = deque()
        self.failures = self.in_a_row = self.waits = 0

    def start(self, config: Mapping[str, Any], provenance: Mapping[str, Any]) -> None:
        self.pending.append(lambda: self.tracker.start(config, provenance))
        self._send()

    def log(self, line: Mapping[str, Any], step: int) -> None:
        self.pending.append(lambda: self.tracker.log(line, step))
        if self.waits:
            self.waits -= 1
        else:
            self._send()

    def finish(self, status: str) -> None:
        self.pending.append(lambda: self.tracker.finish(status))
        self._send()
        if self.failures:
            lost = max(len(self.pending) - 1, 0)  # the last one is this end
            log.warning(
                "%s failed %d times%s; metrics.jsonl holds every line",
                self._name,
                self.failures,
                f" and {lost} calls did not reach it" if lost else ", and has caught up",
            )

    @property
    def _name(self) -> str:
        return type(self.tracker).__name__

    def _send(self) -> None:
        try:
            while self.pending:
                self.pending[0]()
                self.pending.popleft()
            self.in_a_row = 0
        except Exception as error:
            self.failures += 1
            self.in_a_row += 1
            self.waits = min(2 ** (self.in_a_row - 1) - 1, LONGEST_WAIT)
            if self.failures == 1:
                log.warning("%s cannot follow the run, which goes on: %s: %s", self._name, type(error).__name__, error)
