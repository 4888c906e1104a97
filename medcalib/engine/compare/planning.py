"""From a call's options to the plan that a folder holds from then on: judged as a whole, before any work."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from medcalib.config import RunConfig
from medcalib.config.dataset import cases_and_split
from medcalib.data.splits import Split
from medcalib.distributed import resolve_device
from medcalib.engine.calibrate import SPLIT as FITTED_ON
from medcalib.engine.compare.methods import Methods, read_methods
from medcalib.engine.compare.plan import PLAN, Plan, ScoredSplit, read_plan, shared
from medcalib.engine.fitting import parsed_options
from medcalib.engine.run import Weights, differences
from medcalib.errors import ConfigError


@dataclass(frozen=True)
class Request:
    """What a call asks for; None and nothing stand for what the folder's plan says, else for the defaults."""

    losses: Sequence[str] = ()
    methods: Sequence[str] = ()
    sweeps: Sequence[str] = ()
    seeds: Sequence[int] = ()
    calibrators: Sequence[str] = ()
    split: ScoredSplit | None = None
    weights: Weights | None = None
    reference: str | None = None


def planned(base: RunConfig, request: Request, out: Path) -> Plan:
    """The plan of `out` with what the call adds to it; a folder without a plan begins with the call's.

    Raises `ConfigError` with every mistake at once, or with what differs from the plan that is there;
    `DataRefusedError` with every problem of the data.
    """
    if out.exists() and not out.is_dir():
        raise ConfigError(f"{out} is a file; name a folder for the comparison")
    others = out.exists() and any(not path.name.startswith(".tmp-") for path in out.iterdir())
    before = read_plan(out) if (out / PLAN).exists() else None  # looked for second: another shard may be beginning
    if before is None and others:
        raise ConfigError(f"{out} holds files and no {PLAN}; choose a new folder for the comparison")
    asked = read_methods(base, request.losses, request.methods, request.sweeps)
    problems = [*asked.problems, *_problems(request, asked, before)]
    if problems:
        raise ConfigError("\n".join(problems))
    plan = _new(base, request, asked) if before is None else _extended(before, base, request, asked, out)
    _check_cases(plan, cases_and_split(base))
    return plan


def devices_of(names: str | None, base: RunConfig) -> list[str]:
    """The devices `cpu` or `cuda:0,cuda:1`; without names that of the config. Raises `ConfigError`."""
    listed = [name.strip() for name in (names or base.train.device).split(",")]
    found = [resolve_device(name) for name in listed]
    told = [f"cuda:{device.index or 0}" if device.type == "cuda" else "cpu" for device in found]
    if len(set(told)) < len(told):
        raise ConfigError(f"--devices {names}: expected each device once; --jobs says how many cells run on each")
    return told


def _problems(request: Request, asked: Methods, before: Plan | None) -> list[str]:
    found = []
    for name in request.calibrators:
        try:
            parsed_options(name, {})
        except ConfigError as error:
            found.append(f"--calibrators: {error}")
    for option, given in (("--seeds", request.seeds), ("--calibrators", request.calibrators)):
        twice = sorted({str(value) for value in given if list(given).count(value) > 1})
        if twice:
            found.append(f"{option}: {', '.join(twice)} is named twice")
    found += [f"--seeds {seed}: expected 0 to 2**32 - 1" for seed in request.seeds if not 0 <= seed < 2**32]
    labels = {**({} if before is None else before.methods), **asked.options}
    if not labels and not asked.problems:
        found.append("nothing to compare: name methods by --losses ce,mbls, --method or --sweep")
    if request.reference is not None and request.reference not in labels and not asked.problems:
        found.append(f"--reference {request.reference}: no such method; known: {', '.join(labels)}")
    return found


def _check_cases(plan: Plan, split: Split) -> None:
    if not split[plan.split]:
        raise ConfigError("no case is held out as test; give `split` such a share, or score by --split val")
    if plan.split == FITTED_ON and plan.calibrators and len({case.patient_id for case in split[FITTED_ON]}) < 2:
        raise ConfigError("calibrators of --split val are cross-fitted by patient, which needs two or more of them")


def _new(base: RunConfig, request: Request, asked: Methods) -> Plan:
    return Plan(
        config=shared(base),
        methods=asked.options,
        sweeps=asked.sweeps,
        seeds=list(request.seeds) or [0],
        calibrators=list(request.calibrators),
        split=request.split or "test",
        weights=request.weights or "best",
        reference=request.reference or next(iter(asked.options)),
    )


def _extended(before: Plan, base: RunConfig, request: Request, asked: Methods, out: Path) -> Plan:
    """The plan that is there and what is new. Raises `ConfigError` where a call contradicts it."""
    told = [_change(f"config {key}", old, new) for key, old, new in differences(before.config, shared(base))]
    for label, options in asked.options.items():
        old = before.methods.get(label, options)
        told += [_change(f"method {label}: {key}", a, b) for key, a, b in differences(old, options)]
    for what in ("split", "weights"):
        new = getattr(request, what)
        if new not in (None, getattr(before, what)):
            told.append(_change(f"--{what}", getattr(before, what), new))
    if told:
        raise ConfigError(
            f"{out} was begun with other options:\n"
            + "\n".join(told)
            + "\nrepeat those of the first call (losses, seeds and calibrators may be added), or choose a new --out"
        )
    sweeps = {**before.sweeps}
    for name, labels in asked.sweeps.items():
        sweeps[name] = _in_order(name, [*sweeps.get(name, []), *labels], {**before.methods, **asked.options})
    return replace(
        before,
        config=shared(base),  # with its paths and workers, which may change
        methods={**before.methods, **asked.options},
        sweeps=sweeps,
        seeds=list(dict.fromkeys([*before.seeds, *request.seeds])),
        calibrators=list(dict.fromkeys([*before.calibrators, *request.calibrators])),
        reference=request.reference or before.reference,
    )


def _in_order(sweep: str, labels: Sequence[str], methods: Mapping[str, Mapping[str, Any]]) -> list[str]:
    option = sweep.rpartition(".")[2]
    values = {label: methods[label][option] for label in labels}
    numeric = all(isinstance(value, int | float) for value in values.values())
    return sorted(values, key=lambda label: values[label]) if numeric else list(values)


def _change(what: str, old: Any, new: Any) -> str:
    return f"  {what}: the comparison has {old!r}, now {new!r}"
