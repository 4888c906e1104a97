"""Signals that ask a training to stop: noted, and obeyed between two steps."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from medcalib.distributed import any_rank
from medcalib.errors import PreemptedError

_ASKING = ("SIGTERM", "SIGUSR1", "SIGINT")  # schedulers send the first two, Ctrl-C the last


class Stop:
    """What signals have asked for so far.

    While `stepping`, the first signal is only noted; before, when there is nothing to save, it ends the run by a
    `PreemptedError`. Ctrl-C after any signal, or before `stepping`, raises `KeyboardInterrupt` at once.
    """

    def __init__(self) -> None:
        self.signal: str | None = None
        self.stepping = False

    def agreed(self) -> bool:
        """Whether any rank was asked to stop; the same answer on all of them, which must all ask."""
        return any_rank(self.signal is not None)

    def hear(self, number: int, frame: FrameType | None) -> None:
        """The signal handler."""
        if number == signal.SIGINT and (self.signal is not None or not self.stepping):
            raise KeyboardInterrupt
        self.signal = self.signal or signal.Signals(number).name
        if not self.stepping:
            raise PreemptedError(f"{self.signal} before the first step; the same command with --resume starts again")


@contextmanager
def listening() -> Iterator[Stop]:
    """Hear signals within the block; outside the main thread, where Python hears none, the `Stop` stays empty."""
    stop = Stop()
    if threading.current_thread() is not threading.main_thread():
        yield stop
        return
    numbers = [getattr(signal, name) for name in _ASKING if hasattr(signal, name)]
    before = {number: signal.signal(number, stop.hear) for number in numbers}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, signal.SIG_DFL if handler is None else handler)


def obey_parent_only(worker: int = 0) -> None:
    """For loader workers, which hear what is sent to a terminal's or rank's whole group: only the parent ends them."""
    del worker  # its number, from the loader
    for name in _ASKING:
        if hasattr(signal, name):
            signal.signal(getattr(signal, name), signal.SIG_IGN)
    if hasattr(signal, "sigwaitinfo"):
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
        threading.Thread(target=_wait_for_parent, daemon=True).start()
    else:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)


def _wait_for_parent() -> None:
    while signal.sigwaitinfo({signal.SIGTERM}).si_pid != os.getppid():
        continue
    os._exit(0)
