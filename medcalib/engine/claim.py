"""One training at a time in a run folder."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from medcalib.errors import ConfigError
from medcalib.files import make_folder

PATIENCE_S = 20.0  # loader workers outlive a killed training by seconds, and hold what it held
POLL_S = 0.2


@contextmanager
def claimed(run: Path) -> Iterator[None]:
    """Hold the folder within the block; `ConfigError` where another process holds it.

    The system ends the claim with its process, however that ends, so nothing stale is left behind. Where folders
    cannot be locked (Windows, some network file systems) nothing is held.
    """
    make_folder(run)
    try:
        import fcntl
    except ImportError:
        yield
        return
    folder = os.open(run, os.O_RDONLY)
    try:
        limit = time.monotonic() + PATIENCE_S
        while True:
            try:
                fcntl.flock(folder, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                if time.monotonic() > limit:
                    raise ConfigError(
                        f"another process trains in {run}; wait for its end, or choose another --out"
                    ) from None
                time.sleep(POLL_S)
                continue
            except OSError:
                pass
            break
        yield
    finally:
        os.close(folder)
