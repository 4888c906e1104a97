"""The plan of a comparison, as compare.json holds it: what all cells share, and in what they differ."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from medcalib.config import RunConfig, validate
from medcalib.config.reader import Source
from medcalib.engine.compare.folder import LABEL, CellId
from medcalib.engine.run import Weights
from medcalib.errors import ConfigError, DataError, in_words
from medcalib.files import read_json, write_json

PLAN = "compare.json"
VERSION = 1
ScoredSplit = Literal["test", "val"]
_LOSS = {"name": "ce"}  # stands in where a config is read that has none of its own


@dataclass(frozen=True)
class Plan:
    """`config` is a complete RunConfig without loss, seed and device; `methods` holds complete options by label;
    `sweeps` the labels of a swept option in the order of its values."""

    config: Mapping[str, Any]
    methods: Mapping[str, Mapping[str, Any]]
    sweeps: Mapping[str, Sequence[str]]
    seeds: Sequence[int]
    calibrators: Sequence[str]
    split: ScoredSplit
    weights: Weights
    reference: str

    def cells(self) -> list[CellId]:
        """All cells, seed by seed, so that an unfinished table compares methods of the same seeds."""
        return [CellId(label, seed) for seed in self.seeds for label in self.methods]

    def config_of(self, cell: CellId, device: str, root: str | None) -> RunConfig:
        """The config of one cell, on a device and with the data folder of this machine."""
        return _assembled(self.config, self.methods[cell.label], {"seed": cell.seed, "device": device}, root)

    def write(self, out: Path) -> None:
        """Write it into a comparison's folder."""
        write_json(out / PLAN, {"version": VERSION, **asdict(self)})


def read_plan(out: Path) -> Plan:
    """The plan in a comparison's folder. Raises `DataError` (missing_file, broken_json, broken_plan)."""
    found = read_json(out / PLAN)
    try:
        if found.pop("version") != VERSION:
            raise ValueError("it was written by another version")
        plan = _safe(Plan(**found))
        return Plan(**{**found, "config": shared(_assembled(plan.config, _LOSS, {}, None))})
    except (AttributeError, ConfigError, KeyError, TypeError, ValueError) as error:
        raise DataError(
            "broken_plan", f"{out / PLAN} is no plan of this version: {in_words(error)}; choose a new --out"
        ) from error


def _safe(plan: Plan) -> Plan:
    """The plan, if all that becomes a name of a file or folder can be one; else ValueError."""
    for name in (*plan.methods, *plan.calibrators):
        if not LABEL.match(name):
            raise ValueError(f"{name!r} cannot be a folder")
    if any(type(seed) is not int for seed in plan.seeds):
        raise ValueError("seeds are whole numbers")
    return plan


def shared(config: RunConfig) -> dict[str, Any]:
    """What all cells have in common of a config: everything but loss, seed and device."""
    found: dict[str, Any] = config.model_dump(mode="json", exclude={"loss": True, "train": {"seed", "device"}})
    return found


def _assembled(
    common: Mapping[str, Any], loss: Mapping[str, Any], train: Mapping[str, Any], root: str | None
) -> RunConfig:
    data = common["data"] if root is None else {**common["data"], "root": root}
    whole = {**common, "data": data, "loss": loss, "train": {**common["train"], **train}}
    return validate(Source(PLAN, whole))
