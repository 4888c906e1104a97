"""Checkpoints that survive a crash at any moment and are known to be whole.

Files are written beside their final name and moved; the manifest, written last, names each with its SHA-256.
A file that the manifest does not name, or whose hash or epoch differs, counts as absent. The last two checkpoints stay,
so that a damaged one has a predecessor. Only tensors and plain values are stored: loading executes nothing.
"""

from __future__ import annotations

import logging
import os
import shutil
from contextlib import suppress
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch

from medcalib.errors import CheckpointError, DataError, in_words
from medcalib.files import atomic, read_json, remove_abandoned, sha256, write_json

log = logging.getLogger(__name__)
MANIFEST = "manifest.json"
FOLDER = "checkpoints"
_KEPT = 2


class Checkpoints:
    """The checkpoints of one run folder."""

    def __init__(self, run: Path) -> None:
        self.run = run
        self.manifest: dict[str, Any] = {"last": [], "best": None}
        if (run / MANIFEST).is_file():
            self.manifest |= self._read_manifest()

    def _read_manifest(self) -> dict[str, Any]:
        try:
            found = read_json(self.run / MANIFEST)
        except DataError as error:
            raise CheckpointError(f"{error}; restore it, or train again into another --out") from error
        if not isinstance(found, dict) or "best" not in found or not isinstance(found.get("last"), list):
            raise CheckpointError(
                f"{self.run / MANIFEST} is no manifest of a run; restore it, or train again into another --out"
            )
        last = [entry for entry in found["last"] if self._is_whole(entry)]
        best = found["best"] if found["best"] is not None and self._is_whole(found["best"]) else None
        return {"last": last, "best": best}

    def _is_whole(self, entry: Any) -> bool:
        types = {"file": str, "sha256": str, "epoch": int}
        whole = isinstance(entry, dict) and all(isinstance(entry.get(key), kind) for key, kind in types.items())
        if not whole:
            log.warning("%s: an entry is damaged and left out: %s", self.run / MANIFEST, entry)
        return whole

    def save_last(self, state: dict[str, Any], epoch: int, step: int = 0) -> None:
        """Write the state after `epoch` epochs and `step` steps of the next; older states but one are removed once the
        manifest is safe."""
        name = f"epoch-{epoch:05d}-step-{step:06d}.pt" if step else f"epoch-{epoch:05d}.pt"
        entry = self._write(state, name) | {"epoch": epoch, "step": step}
        older = [old for old in self.manifest["last"] if (old["epoch"], old.get("step", 0)) < (epoch, step)]
        self.manifest["last"] = [entry, *older][:_KEPT]
        self._write_manifest()

    def save_best(self, state: dict[str, Any], epoch: int, score: float) -> None:
        """Write the weights with the best validation score so far."""
        entry = self._write(state, f"best-{epoch:05d}.pt")
        self.manifest["best"] = entry | {"epoch": epoch, "score": score}
        self._write_manifest()

    def remove_abandoned(self) -> None:
        """Remove what a killed process left half written; for the one process that continues the run."""
        for folder in (self.run, self.run / FOLDER):
            remove_abandoned(folder, older_than_s=-60.0)  # clocks of a network file system may be ahead

    def load_last(self) -> dict[str, Any]:
        """The newest whole state; says so when it had to fall back to the one before."""
        return self.load_newest()[0]

    def load_newest(self) -> tuple[dict[str, Any], dict[str, Any]]:
        """The newest whole state and its manifest entry."""
        for entry in self.manifest["last"]:
            try:
                return self._load(entry), entry
            except CheckpointError as error:
                log.warning("%s; trying the one before", error)
        raise CheckpointError(
            f"{self.run} holds no whole checkpoint: none was written, or all are damaged; train again"
        )

    def load_best(self) -> tuple[dict[str, Any], dict[str, Any]]:
        """The best weights and their manifest entry."""
        entry = self.manifest["best"]
        if entry is None:
            raise CheckpointError(
                f"{self.run} holds no best checkpoint, which is written after a validation: continue the training with "
                "--resume, or take --weights last"
            )
        return self._load(entry), entry

    def _write(self, state: dict[str, Any], name: str) -> dict[str, str]:
        path = self.run / FOLDER / name
        try:
            with atomic(path) as temporary:
                torch.save(state, temporary)
                digest = sha256(temporary)
        except (OSError, RuntimeError) as error:
            raise CheckpointError(
                f"{path} cannot be written{_free(path.parent)}: {error}; earlier checkpoints are intact, --resume goes "
                "on from the last one"
            ) from error
        return {"file": name, "sha256": digest}

    def _load(self, entry: dict[str, Any]) -> dict[str, Any]:
        path = self.run / FOLDER / Path(str(entry["file"])).name
        if not path.is_file():
            raise CheckpointError(f"checkpoint {path} is missing, but {MANIFEST} names it; restore the file")
        if sha256(path) != entry["sha256"]:
            raise CheckpointError(
                f"checkpoint {path} is damaged: its SHA-256 differs from that in {MANIFEST}; restore the file"
            )
        try:
            state = torch.load(path, map_location="cpu", weights_only=True)
        except (RuntimeError, UnpicklingError, EOFError) as error:
            raise CheckpointError(f"checkpoint {path} cannot be loaded: {in_words(error)}") from error
        if not isinstance(state, dict):
            raise CheckpointError(
                f"checkpoint {path} holds no state of a training; was it replaced by a file of another tool?"
            )
        if state.get("epoch", entry["epoch"]) != entry["epoch"]:
            raise CheckpointError(f"checkpoint {path} is of epoch {state['epoch']}, the manifest says {entry['epoch']}")
        return state

    def _write_manifest(self) -> None:
        _sync_folder(self.run / FOLDER)  # a power failure must not leave a manifest that names files not yet there,
        write_json(self.run / MANIFEST, self.manifest)
        _sync_folder(self.run)  # nor the manifest before, whose files are removed now
        named = {entry["file"] for entry in [*self.manifest["last"], self.manifest["best"]] if entry}
        for path in (self.run / FOLDER).glob("*.pt"):
            if path.name not in named:
                path.unlink()


def _sync_folder(folder: Path) -> None:
    """Make renames in a folder durable, where the system can."""
    with suppress(OSError):
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def _free(folder: Path) -> str:
    """How much the disk of a folder has left, as a clause; empty where the folder is gone."""
    try:
        return f", {shutil.disk_usage(folder).free / 2**20:,.0f} MiB are free there"
    except OSError:
        return ""
