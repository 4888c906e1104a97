"""status.json of a run: whether it runs, and how it ended."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Literal

import torch

from medcalib.distributed import is_main, lost_rank, ranks
from medcalib.errors import MedcalibError, PreemptedError, RankError, TrainingError
from medcalib.files import read_json, write_json

STATUS = "status.json"
Word = Literal["running", "preempted", "interrupted", "failed", "finished"]


class Status:
    """Writes status.json: `status`, `reason`, completed `epoch`s, `step`s of the next, `ranks`, `pid`, `updated` (UTC).

    preempted: a signal ended the run between two steps; nothing is lost. interrupted: a second Ctrl-C ended it at once;
    the last checkpoint holds. A killed run stays `running`: nobody was left to write.
    """

    def __init__(self, run: Path) -> None:
        self.run = run
        self.epoch = self.step = 0

    def write(self, status: Word, reason: str | None = None) -> None:
        """Replace the file."""
        updated = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
        where = {"epoch": self.epoch, "step": self.step, "ranks": ranks(), "pid": os.getpid()}
        write_json(self.run / STATUS, {"status": status, "reason": reason, **where, "updated": updated})

    @contextmanager
    def recorded(self) -> Iterator[None]:
        """Write how the block ended. What torch raises for want of memory, workers or ranks becomes advice."""
        if is_main():
            self.write("running")
        try:
            yield
        except BaseException as error:
            told = advice(error)
            if is_main() or (isinstance(told, RankError) and self._runs()):  # rank 0 may be the one that died
                with suppress(OSError):  # a full disk must not hide the error itself
                    self.write(word_of(error), _reason(told))
            if told is error:
                raise
            raise told from error
        if is_main():
            self.write("finished")

    def _runs(self) -> bool:
        return bool(read_json(self.run / STATUS)["status"] == "running")


@contextmanager
def advised() -> Iterator[None]:
    """Turns what torch raises for want of memory, workers or ranks into `advice`."""
    try:
        yield
    except Exception as error:
        told = advice(error)
        if told is error:
            raise
        raise told from error


def word_of(error: BaseException) -> Word:
    """How an error ends a run."""
    if isinstance(error, PreemptedError):
        return "preempted"
    return "interrupted" if isinstance(error, KeyboardInterrupt) else "failed"


def _reason(error: BaseException) -> str:
    return str(error) if isinstance(error, MedcalibError | OSError) else f"{type(error).__name__}: {error}".rstrip(": ")


def advice(error: BaseException) -> BaseException:
    """The error, or where torch's text does not say what to do, one that does."""
    text = str(error)
    first = text.partition("\n")[0]
    if isinstance(error, torch.OutOfMemoryError) or "can't allocate memory" in text:
        return TrainingError(
            "out of memory. Smaller steps: halve train.batch_size and double train.accumulate; or make "
            "train.patch_size smaller, set train.precision to bf16, or take fewer channels. For validation: "
            f"predict.batch_size. Another config is another run: choose a new --out. torch says: {first}"
        )
    if isinstance(error, RuntimeError) and "DataLoader worker" in text:
        return TrainingError(
            "a loader worker was killed, mostly for want of shared memory or memory: in a container give "
            f"--shm-size=8g, or set train.workers to 0. The last checkpoint is intact. torch says: {first}"
        )
    return (lost_rank(error) if isinstance(error, RuntimeError) else None) or error
