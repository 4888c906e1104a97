"""The cells of a comparison, each in a process of its own, on the free slots of the devices."""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import time
from collections import deque
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from medcalib.engine.compare.cell import BUSY, command
from medcalib.engine.compare.folder import CellFolder, CellId
from medcalib.engine.compare.lock import Watch, owner, read
from medcalib.engine.compare.plan import Plan
from medcalib.engine.compare.progress import Progress
from medcalib.engine.shards import Shard
from medcalib.engine.signals import Stop, listening
from medcalib.engine.surroundings import cores
from medcalib.errors import Exit, PreemptedError
from medcalib.files import appending, refuse_links_out

log = logging.getLogger(__name__)
POLL_S, WAIT_S = 0.05, 1.0
LAST_LINES = 5


@dataclass(frozen=True)
class Options:
    """How a call works, which changes nothing in the results: where, how many cells at once, and what is kept."""

    devices: Sequence[str]
    jobs: int = 1
    shard: Shard | None = None
    root: str | None = None
    keep_predictions: bool = False


@dataclass
class Outcome:
    """The cells of a call: those with scores now, those that failed with their errors, and how many cases were refused
    in those that are done."""

    done: list[CellId] = field(default_factory=list)
    failed: dict[CellId, str] = field(default_factory=dict)
    refused: dict[CellId, int] = field(default_factory=dict)


@dataclass
class _Child:
    cell: CellId
    process: subprocess.Popen[bytes]
    began: float = field(default_factory=time.monotonic)


def run_cells(plan: Plan, out: Path, options: Options) -> Outcome:
    """Do what is left of the cells of this call's shard; returns what became of them.

    A cell that fails, or whose process is killed, leaves the others alone. One that another process is working on is
    waited for. After SIGTERM, SIGUSR1 or Ctrl-C the cells at work are told to end, which they do after a training step;
    then `PreemptedError` is raised. A second Ctrl-C kills them. A link that leads out of `out` raises `ConfigError`.
    """
    refuse_links_out(out)
    cells = plan.cells() if options.shard is None else [*_share(plan.cells(), options.shard)]
    with listening() as stop:
        stop.stepping = True
        return _Runner(plan, out, options, cells, stop).run()


def _share(cells: Sequence[CellId], shard: Shard) -> Sequence[CellId]:
    return cells[shard.index :: shard.count]


class _Runner:
    def __init__(self, plan: Plan, out: Path, options: Options, cells: list[CellId], stop: Stop) -> None:
        self.plan, self.out, self.options, self.stop = plan, out, options, stop
        self.calibrators = list(plan.calibrators)
        self.outcome = Outcome()
        self.waiting: deque[CellId] = deque()
        for cell in cells:
            (self.outcome.done if self._folder(cell).is_done(self.calibrators) else self.waiting).append(cell)
        slots = [device for _ in range(options.jobs) for device in options.devices]  # spread over devices first
        self.free = deque(slots)
        self.children: list[tuple[str, _Child]] = []
        self.progress = Progress(len(cells), len(self.outcome.done), len(slots))
        self.watch, self.told = Watch(), set[CellId]()
        self.interrupted = False
        self.environment = _environment(len(slots))

    def run(self) -> Outcome:
        self.progress.begin(self.options.devices, self.options.jobs)
        signaled = False
        try:
            while self.children or (self.waiting and not self.interrupted):
                if self.stop.signal is not None and not signaled:
                    signaled = self.interrupted = True
                    log.info("%s: the cells at work end after a step", self.stop.signal)
                    self._tell(signal.SIGTERM)
                started = not self.interrupted and self._start_one()
                ended = [pair for pair in self.children if pair[1].process.poll() is not None]
                for pair in ended:
                    self._ended(*pair)
                if not started and not ended:
                    time.sleep(POLL_S if self.children else WAIT_S)
        finally:
            self._tell(getattr(signal, "SIGKILL", signal.SIGTERM))
        if self.interrupted:
            left = len(self.waiting)
            raise PreemptedError(f"stopped with {left} cells left; the same command continues there")
        for cell in self.outcome.done:
            if refused := self._folder(cell).state()["refused"]:
                self.outcome.refused[cell] = refused
        return self.outcome

    def _folder(self, cell: CellId) -> CellFolder:
        return CellFolder(self.out, cell)

    def _start_one(self) -> bool:
        """Start the first waiting cell that nobody else works on; whether there was a slot and such a cell."""
        for _ in range(len(self.waiting) if self.free else 0):
            cell = self.waiting.popleft()
            lock = self._folder(cell).lock
            stale = self.watch.stale(lock)
            held = None if stale is not None else read(lock)
            if held is not None:
                self.waiting.append(cell)
                if cell not in self.told:
                    log.info("%s: waiting for %s", cell, owner(held))
                    self.told.add(cell)
            elif self._folder(cell).is_done(self.calibrators):
                self.outcome.done.append(cell)
            else:
                self._start(cell, self.free.popleft(), stale)
                return True
        return False

    def _start(self, cell: CellId, device: str, stale: str | None) -> None:
        folder, options = self._folder(cell), self.options
        words = command(self.out, cell, device, root=options.root, keep=options.keep_predictions, stale=stale)
        folder.path.mkdir(parents=True, exist_ok=True)
        with appending(folder.log) as output:
            output.write(f"--- {time.strftime('%Y-%m-%d %H:%M:%S')} on {device}\n".encode())
            process = subprocess.Popen(  # noqa: S603 - this interpreter, and words that were checked
                words,
                stdin=subprocess.PIPE,
                stdout=output,
                stderr=subprocess.STDOUT,
                env=self.environment,
                start_new_session=True,  # Ctrl-C in a terminal is for this process, which tells its children
            )
        self.children.append((device, _Child(cell, process)))

    def _ended(self, device: str, child: _Child) -> None:
        self.children.remove((device, child))
        self.free.append(device)
        if child.process.stdin is not None:
            child.process.stdin.close()
        code, cell = child.process.returncode, child.cell
        seconds = time.monotonic() - child.began
        if code == Exit.OK:
            self.outcome.done.append(cell)
            self.progress.done(self._folder(cell), seconds, self._left())
        elif code == BUSY:
            self.waiting.append(cell)
        elif code == Exit.PREEMPTED or (self.stop.signal is not None and code < 0):
            self.waiting.append(cell)
            self.interrupted = True
        else:
            self.outcome.failed[cell] = error = self._error(self._folder(cell), code)
            self.progress.failed(cell, error, self._folder(cell).log)

    def _left(self) -> tuple[int, float]:
        """Cells that are not finished, and seconds that those at work have taken."""
        now = time.monotonic()
        return len(self.waiting) + len(self.children), sum(now - child.began for _, child in self.children)

    def _error(self, folder: CellFolder, code: int) -> str:
        """Why a cell failed; noted here where its process could not."""
        state = folder.state()
        if state["state"] == "failed" and state["error"]:
            return str(state["error"])
        why = f"its process ended with code {code}"
        if code < 0:
            name = signal.Signals(-code).name
            why = f"its process was ended by {name}{' (mostly for want of memory)' if name == 'SIGKILL' else ''}"
        with suppress(OSError):
            last = folder.log.read_text(encoding="utf-8", errors="replace").splitlines()[-LAST_LINES:]
            why = "\n".join([why, *last])
        folder.write(state="failed", error=why)
        return why

    def _tell(self, number: int) -> None:
        for _, child in self.children:
            with suppress(OSError):
                child.process.send_signal(number)


def _environment(slots: int) -> dict[str, Any]:
    """This process's environment, with the cores shared among the slots."""
    threads = max(1, cores() // slots)
    asked = os.environ.get("OMP_NUM_THREADS", "")
    return {**os.environ, "OMP_NUM_THREADS": str(min(threads, int(asked)) if asked.isdecimal() else threads)}
