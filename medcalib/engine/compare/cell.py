"""The process of one cell: `python -m medcalib.engine.compare.cell OUT LABEL SEED DEVICE`. Its output is log.txt.

Exit codes: 0 done, 1 failed (cell.json says why), 73 another process is at work on the cell, 75 stopped by a signal.
"""

from __future__ import annotations

import argparse
import logging
import os
import signal
import stat
import sys
import threading
import time
import traceback
from collections.abc import Sequence
from pathlib import Path
from types import FrameType

from medcalib.engine.compare.folder import CellFolder, CellId
from medcalib.engine.compare.lock import BusyError, held
from medcalib.errors import Exit, MedcalibError, PreemptedError

FAILED, BUSY = 1, 73


def command(out: Path, cell: CellId, device: str, *, root: str | None, keep: bool, stale: str | None) -> list[str]:
    """The command line of a cell's process."""
    words = [sys.executable, "-m", "medcalib.engine.compare.cell", str(out), cell.label, str(cell.seed), device]
    words += [] if root is None else ["--data", root]
    words += [] if stale is None else ["--stale", stale]
    return words + ["--keep"] * keep


def main(arguments: Sequence[str] | None = None) -> int:
    """Do what is left of the cell; returns the exit code."""
    given = _parser().parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    for name in ("SIGTERM", "SIGUSR1"):
        if hasattr(signal, name):
            signal.signal(getattr(signal, name), _stop)
    if stat.S_ISFIFO(os.fstat(0).st_mode):
        threading.Thread(target=_end_with_parent, daemon=True).start()
    folder = CellFolder(given.out, CellId(given.label, given.seed))
    try:
        with held(folder.lock, given.stale):
            return _done(folder, given)
    except BusyError as busy:
        logging.info("%s", busy)
        return BUSY


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m medcalib.engine.compare.cell")
    parser.add_argument("out", type=Path)
    parser.add_argument("label")
    parser.add_argument("seed", type=int)
    parser.add_argument("device")
    parser.add_argument("--data")
    parser.add_argument("--stale", help="content of a lock that may be taken over")
    parser.add_argument("--keep", action="store_true", help="keep the predictions")
    return parser


def _done(folder: CellFolder, given: argparse.Namespace) -> int:
    began = time.monotonic()
    folder.write(state="running", error=None)
    try:
        from medcalib.engine.compare.work import work  # torch and MONAI take seconds: only once the lock is held

        work(given.out, folder, given.device, given.data, keep=given.keep)
    except PreemptedError as stopped:
        logging.info("%s", stopped)
        return Exit.PREEMPTED
    except Exception as error:
        logging.error("%s", _shared(str(error) if isinstance(error, MedcalibError) else traceback.format_exc(), given))
        folder.write(state="failed", error=_shared(_told(error), given))
        return FAILED
    folder.write(state="done")
    logging.info("done in %.1f s", time.monotonic() - began)
    return Exit.OK


def _shared(text: str, given: argparse.Namespace) -> str:
    """Without the data's folder: what a cell says goes into tables, which travel."""
    from medcalib.data.predictions import without_folders

    return text if given.data is None else without_folders(text, Path(given.data))


def _told(error: Exception) -> str:
    text = str(error).strip()
    lines = (text if isinstance(error, MedcalibError | OSError) else f"{type(error).__name__}: {text}").splitlines()
    return "\n".join(lines[-5:])


def _stop(number: int, frame: FrameType | None) -> None:
    """Between the steps of a training it is the training that hears the signal; elsewhere steps are short."""
    del number, frame
    raise SystemExit(int(Exit.PREEMPTED))


def _end_with_parent() -> None:
    """The parent holds the other end of standard input open; when it is killed, this process ends as if told to."""
    try:
        while os.read(0, 1024):
            continue
    except OSError:
        return
    os.kill(os.getpid(), signal.SIGTERM)


if __name__ == "__main__":
    sys.exit(main())
