"""The run folder: config.yaml, split.json, metrics.jsonl, status.json, manifest.json, checkpoints/."""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import torch
from torch import nn

from medcalib.config import RunConfig, dump, load
from medcalib.config.dataset import only_ids, scan, with_root
from medcalib.data.case import Case
from medcalib.data.check import require
from medcalib.data.splits import Split
from medcalib.engine.checkpoint import MANIFEST, Checkpoints
from medcalib.errors import CheckpointError, ConfigError, in_words
from medcalib.files import appending, read_json, write_json, write_text
from medcalib.networks import NETWORKS

Weights = Literal["best", "last"]
CONFIG, SPLIT, METRICS = "config.yaml", "split.json", "metrics.jsonl"
# What may differ between a run and its continuation: where things are and how fast they go, not the result.
_FREE = {
    ("data", "root"),
    ("train", "workers"),
    ("train", "device"),
    ("train", "channels_last"),
    ("train", "compile"),
    ("train", "deterministic"),
    ("train", "cache"),
    ("train", "cache_dir"),
    ("train", "accumulate"),  # ranks x accumulate must stay: the state checks it
    ("train", "checkpoint_steps"),
    ("train", "trackers"),
    ("train", "rank_timeout_s"),
    ("predict", "batch_size"),
}


def check_free(out: Path) -> None:
    """Refuse a folder that already holds a run: nothing is overwritten."""
    if (out / CONFIG).exists() or (out / MANIFEST).exists():
        raise ConfigError(f"{out} already holds a run; continue it with --resume, or choose another --out")


def start(out: Path, config: RunConfig, split: Split) -> None:
    """Make a new run folder."""
    out.mkdir(parents=True, exist_ok=True)
    write_text(out / CONFIG, dump(config))
    write_json(out / SPLIT, {name: [case.id for case in cases] for name, cases in split.items()})
    write_text(out / METRICS, "")


def check_same(out: Path, config: RunConfig) -> None:
    """Refuse to continue a run under another config; the message lists what differs."""
    before = load(out / CONFIG, saved=True)
    different = differences(before.model_dump(), config.model_dump())
    if different:
        listed = "\n".join(f"  {key}: the run has {old!r}, now {new!r}" for key, old, new in different)
        raise ConfigError(
            f"{out} was started with another config:\n{listed}\nrepeat the first call's options, or choose a new --out"
        )


def differences(
    old: Mapping[str, Any], new: Mapping[str, Any], path: tuple[str, ...] = ()
) -> list[tuple[str, Any, Any]]:
    """What two configs have differently, but for what may change between a run and its continuation."""
    found = []
    for key in sorted(old.keys() | new.keys()):
        here, a, b = (*path, key), old.get(key), new.get(key)
        if isinstance(a, Mapping) and isinstance(b, Mapping):
            found += differences(a, b, here)
        elif a != b and here not in _FREE:
            found.append((".".join(here), a, b))
    return found


def open_run(run: Path, data: str | None = None) -> RunConfig:
    """The config of a finished or running run, its data folder replaced by `data` where given."""
    if not (run / CONFIG).is_file():
        raise CheckpointError(f"{run} is no run folder: it holds no {CONFIG}; name the --out of a `medcalib train`")
    config = load(run / CONFIG, saved=True)
    return config if data is None else with_root(config, data)


def cases_of(run: Path, config: RunConfig, split: str) -> list[Case]:
    """The cases that the run itself assigned to `split`, looked up in the data folder."""
    ids = read_json(run / SPLIT)
    if not isinstance(ids, dict) or not all(isinstance(part, list) for part in ids.values()):
        raise CheckpointError(f"{run / SPLIT} is no split of a run, lists of case ids by name; restore the file")
    if split not in ids:
        raise ConfigError(f"--split {split}: expected one of {', '.join(ids)}")
    if not ids[split]:
        raise ConfigError(
            f"{run}: its {split} split holds no case; choose another --split, or train with a larger share in `split`"
        )
    cases, problems = scan(config.data, config.root)
    wanted = set(ids[split])
    require(problem for problem in problems if problem.where in wanted or not cases)
    return only_ids(cases, ids[split])


def build_model(config: RunConfig, in_channels: int) -> nn.Module:
    """The network of a config."""
    return NETWORKS[config.model.name].build(in_channels, config.num_classes, **config.model.options())


def load_model(
    run: Path, config: RunConfig, device: torch.device, weights: Weights = "best"
) -> tuple[nn.Module, dict[str, Any]]:
    """The network with weights of the run, and their manifest entry (file, sha256, epoch).

    `best`: of the highest validation Dice; `last`: of the last epoch, as nnU-Net predicts.
    """
    checkpoints = Checkpoints(run)
    state, entry = checkpoints.load_best() if weights == "best" else checkpoints.load_newest()
    model = build_model(config, int(state["in_channels"]))
    try:
        model.load_state_dict(state["model"])
    except RuntimeError as error:
        raise CheckpointError(
            f"{run}: the weights do not fit the network of its {CONFIG}; was the file edited? Restore "
            f"`model` as it was trained ({in_words(error)})"
        ) from error
    return model.to(device).eval(), entry


def append_metrics(run: Path, line: Mapping[str, Any]) -> None:
    """Add one JSON line to metrics.jsonl; on a full disk the lines before it stay whole."""
    with appending(run / METRICS) as stream:
        end = stream.tell()
        raw = (json.dumps(line, allow_nan=False) + "\n").encode()
        try:
            if stream.write(raw) < len(raw):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(run / METRICS))
            os.fsync(stream.fileno())
        except OSError:
            stream.truncate(end)
            raise


def last_metrics(run: Path) -> dict[str, Any]:
    """The line of the last epoch."""
    lines = (run / METRICS).read_text(encoding="utf-8").splitlines()
    line: dict[str, Any] = json.loads(lines[-1])
    return line


def truncate_metrics(run: Path, epoch: int) -> None:
    """Drop lines of epochs that a resumed run will do again."""
    if (run / METRICS).is_file():
        lines = (run / METRICS).read_text(encoding="utf-8").splitlines(keepends=True)
        kept = [line for line in lines if line.endswith("\n") and json.loads(line)["epoch"] <= epoch]
        write_text(run / METRICS, "".join(kept))
