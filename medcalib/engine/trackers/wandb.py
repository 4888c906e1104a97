"""Weights & Biases; the extra `wandb`. WANDB_MODE, WANDB_PROJECT and the like say where to."""

from __future__ import annotations

import os
import secrets
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from medcalib.engine.trackers.identity import known, remember
from medcalib.engine.trackers.numbers import numbers


class WandB:
    """One run of W&B for one run folder, also over `--resume`.

    What W&B gathers by itself is turned off: console output, host and user names, paths, the command line, code
    and git remotes. The project is WANDB_PROJECT, else medcalib; with WANDB_MODE=offline nothing leaves the
    machine, and `wandb sync RUN/wandb/offline-run-*` sends it later.
    """

    def __init__(self, run: Path) -> None:
        self.run = run
        self._handle: Any = None

    def start(self, config: Mapping[str, Any], provenance: Mapping[str, Any]) -> None:
        """Begin the run, or go on with the one of this folder."""
        import wandb

        identity = known(self.run, "wandb")
        if identity is None:
            identity = secrets.token_hex(8)
            remember(self.run, "wandb", identity)
        settings = wandb.Settings(
            console="off",
            disable_code=True,
            disable_git=True,
            save_code=False,
            disable_job_creation=True,
            host="",
            root_dir=str(self.run),
            x_disable_meta=True,
            x_disable_stats=True,
            x_disable_machine_info=True,
            silent=True,
        )
        self._handle = wandb.init(
            project=os.environ.get("WANDB_PROJECT", "medcalib"),
            id=identity,
            resume="allow",
            name=str(config["name"]),
            config={**config, "provenance": dict(provenance)},
            dir=str(self.run),
            settings=settings,
        )

    def log(self, line: Mapping[str, Any], step: int) -> None:
        """The numbers of a line; W&B ignores those of epochs that it has."""
        self._handle.log(numbers(line), step=step)

    def finish(self, status: str) -> None:
        """Send what is left."""
        if self._handle is None:
            return
        if status == "preempted":
            self._handle.mark_preempting()
        self._handle.finish(exit_code=0 if status == "finished" else 1)
