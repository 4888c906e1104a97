"""Work spread over processes so that one killed worker costs one case, and stopping leaves nobody behind."""

from __future__ import annotations

import os
import signal
import threading
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from multiprocessing import active_children, get_context, parent_process
from typing import TypeVar

import torch

from medcalib.errors import MedcalibError

Job = TypeVar("Job")
Result = TypeVar("Result")


def unordered(
    work: Callable[[Job], Result], jobs: Iterable[Job], workers: int, *, died: Callable[[Job], Result]
) -> Iterator[Result]:
    """`work(job)` of every job, in the order in which they end, by `workers` new processes (spawn).

    When a worker is killed (by the kernel, for memory), the at most `workers` jobs in progress are tried once more,
    each alone; one that is killed again ends as `died(job)`. Results are not queued up. When the caller stops, so do
    the processes; they also end when this process is killed. Raises `MedcalibError` when none can start.
    """
    waiting = deque(jobs)
    while waiting:
        suspects = yield from _until_broken(work, waiting, workers)
        if suspects:
            _check_start()
        for job in suspects:
            if (yield from _until_broken(work, deque([job]), 1)):
                yield died(job)


def _until_broken(
    work: Callable[[Job], Result], waiting: deque[Job], workers: int
) -> Generator[Result, None, list[Job]]:
    """Take jobs until none waits, or a worker was killed: then those in progress are returned."""
    broken: list[Job] = []
    running: dict[Future[Result], Job] = {}
    with _pool(workers) as pool:
        while running or (waiting and not broken):
            while waiting and len(running) < workers and not broken:
                _submit(pool, work, waiting.popleft(), running, broken)
            for future in wait(running, return_when=FIRST_COMPLETED).done:
                job = running.pop(future)
                try:
                    yield future.result()
                except BrokenProcessPool:
                    broken.append(job)
    return broken


def _submit(
    pool: ProcessPoolExecutor,
    work: Callable[[Job], Result],
    job: Job,
    running: dict[Future[Result], Job],
    broken: list[Job],
) -> None:
    try:
        with _no_interrupt():
            running[pool.submit(work, job)] = job
    except BrokenProcessPool:
        broken.append(job)


@contextmanager
def _pool(workers: int) -> Iterator[ProcessPoolExecutor]:
    others = set(active_children())
    pool = ProcessPoolExecutor(workers, get_context("spawn"), _start_worker)
    try:
        yield pool
    except BaseException:  # Ctrl-C, a full disk, or a caller that has seen enough: do not wait for long cases
        for worker in set(active_children()) - others:
            worker.terminate()
        pool.shutdown(cancel_futures=True)
        raise
    pool.shutdown()


def _check_start() -> None:
    """A script without a main guard cannot be spawned; say so once, not once a case."""
    try:
        with _pool(1) as pool:
            pool.submit(os.getpid).result()
    except BrokenProcessPool:
        raise MedcalibError(
            'worker processes cannot start; use workers=1, or call this under `if __name__ == "__main__":`'
        ) from None


@contextmanager
def _no_interrupt() -> Iterator[None]:
    """Processes that start here do not hear Ctrl-C, which is for this one; it stops them."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def _start_worker() -> None:
    torch.set_num_threads(1)  # workers share the cores among themselves
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    parent = parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)  # the queue would be waited on for ever
