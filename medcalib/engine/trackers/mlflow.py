"""MLflow; the extra `mlflow`. MLFLOW_TRACKING_URI and MLFLOW_EXPERIMENT_NAME say where to."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, TypeVar

from medcalib.engine.trackers.identity import known, remember
from medcalib.engine.trackers.numbers import flat, numbers

_Entry = TypeVar("_Entry")
_BATCH = 100  # entries that MLflow takes at once
_LONGEST = 500  # characters of a value, which every server takes


class MLflow:
    """One run of MLflow for one run folder, also over `--resume`.

    Its client is used, not its fluent calls, which would add the user's name and the path of the script.
    """

    def __init__(self, run: Path) -> None:
        self.run = run
        self._client: Any = None
        self._id = ""

    def start(self, config: Mapping[str, Any], provenance: Mapping[str, Any]) -> None:
        """Begin the run with its config as parameters, or go on with the one of this folder."""
        import mlflow

        client = mlflow.MlflowClient()
        identity = known(self.run, "mlflow")
        if identity is None:
            identity = _created(client, str(config["name"]))
            remember(self.run, "mlflow", identity)
            params = [mlflow.entities.Param(_name(k), str(v)[:_LONGEST]) for k, v in flat(config).items()]
            for batch in _batches(params):
                client.log_batch(identity, params=batch)
        else:
            client.update_run(identity, status="RUNNING")
        tags = [mlflow.entities.RunTag(_name(k), str(v)[:_LONGEST]) for k, v in flat(provenance).items()]
        for some in _batches(tags):
            client.log_batch(identity, tags=some)
        self._client, self._id = client, identity

    def log(self, line: Mapping[str, Any], step: int) -> None:
        """The numbers of a line."""
        import mlflow

        now = int(time.time() * 1000)
        metrics = [mlflow.entities.Metric(_name(k), float(v), now, step) for k, v in numbers(line).items()]
        for batch in _batches(metrics):
            self._client.log_batch(self._id, metrics=batch)

    def finish(self, status: str) -> None:
        """Say how it ended."""
        if self._client is not None:
            word = {"finished": "FINISHED", "failed": "FAILED"}.get(status, "KILLED")
            self._client.set_terminated(self._id, status=word)


def _created(client: Any, name: str) -> str:
    """The id of a new run in the experiment that MLFLOW_EXPERIMENT_NAME names, else medcalib."""
    wanted = os.environ.get("MLFLOW_EXPERIMENT_NAME", "medcalib")
    found = client.get_experiment_by_name(wanted)
    experiment = found.experiment_id if found is not None else client.create_experiment(wanted)
    return str(client.create_run(experiment, run_name=name).info.run_id)


def _name(name: str) -> str:
    """MLflow refuses other characters, which names of classes may hold."""
    return re.sub(r"[^\w./ -]", "_", name)


def _batches(entries: list[_Entry]) -> Iterator[list[_Entry]]:
    for first in range(0, len(entries), _BATCH):
        yield entries[first : first + _BATCH]
