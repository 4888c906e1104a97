"""provenance.json: what a run was made from and on, so that its numbers can be traced and made again."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from medcalib.config import RunConfig, dump
from medcalib.data.case import Case
from medcalib.engine.fingerprints import END, changed, fingerprints
from medcalib.engine.surroundings import surroundings
from medcalib.errors import CheckpointError, DataRefusedError, Problem
from medcalib.files import read_json, write_json

FILE = "provenance.json"
FORMAT = 1


class Provenance:
    """Fingerprints of the data, and an entry in `starts` for the first start and for each `--resume`.

    It holds case ids, which split.json holds too, but neither paths nor names of users or hosts.
    """

    def __init__(self, run: Path, config: RunConfig, device: torch.device, split: Mapping[str, Sequence[Case]]) -> None:
        """Read the data. Raises `DataRefusedError` where a file is not the one that the run began with."""
        self.run = run
        self.content = _content(run)
        before = self.content.get("data", {})
        known = before.get("files", {})
        kind, found = fingerprints(split, before.get("kind"), known)
        different = changed(known, found) if known else []
        if different:
            raise DataRefusedError(_problem(case, what) for case, what in different)
        self.content |= {"format": FORMAT, "data": {"kind": kind, "meaning": _MEANING[kind], "files": known | found}}
        facts = {"config_sha256": config_sha256(config), "seed": config.train.seed, **surroundings(device)}
        self.entry: dict[str, Any] = {"started": _now(), "ended": None, "status": "running", **facts}
        self.content["starts"] = [*self.content.get("starts", ()), self.entry]

    def begin(self, epoch: int, step: int) -> None:
        """Write the file: a start after so many epochs, and steps of the next."""
        self.entry["from"] = {"epoch": epoch, "step": step}
        write_json(self.run / FILE, self.content)

    def summary(self) -> dict[str, Any]:
        """This start without anything of single cases."""
        files = [
            one for cases in self.content["data"]["files"].values() for of in cases.values() for one in of.values()
        ]
        data = {"files": len(files), "bytes": sum(one["bytes"] for one in files), "kind": self.content["data"]["kind"]}
        return {**self.entry, "starts": len(self.content["starts"]), "data": data}

    def start(self, config: Mapping[str, Any], provenance: Mapping[str, Any]) -> None:
        """Nothing more than `begin` did; a provenance follows its run for the end."""

    def log(self, line: Mapping[str, Any], step: int) -> None:
        """Nothing."""

    def finish(self, status: str) -> None:
        """When and how this start ended."""
        self.entry |= {"ended": _now(), "status": status}
        write_json(self.run / FILE, self.content)


_MEANING = {
    "content": "sha256 of the whole file",
    "ends": f"sha256 of the first and the last {END} bytes of the file",
}


def config_sha256(config: RunConfig) -> str:
    """SHA-256 of the config as config.yaml holds it, without `data.root`: the same wherever the data lie."""
    data = config.data.model_copy(update={"root": None})
    return hashlib.sha256(dump(config.model_copy(update={"data": data})).encode()).hexdigest()


def _content(run: Path) -> dict[str, Any]:
    if not (run / FILE).is_file():
        return {}
    found = read_json(run / FILE)
    if not isinstance(found, dict) or found.get("format") != FORMAT:
        raise CheckpointError(f"{run / FILE} is no provenance of format {FORMAT}; a newer version may have written it")
    return found


def _problem(case: str, what: str) -> Problem:
    return Problem(
        case,
        "changed_file",
        f"its {what} is not the file that this run began with; restore it, or start a new run in another --out",
    )


def _now() -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
