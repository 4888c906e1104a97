"""The steps of a cell: train, fit calibrators, score. What an earlier try has finished is kept."""

from __future__ import annotations

import json
import shutil
import time
from pathlib import Path
from typing import Any

import torch

from medcalib.config import RunConfig
from medcalib.engine.calibrate import SPLIT as FITTED_ON
from medcalib.engine.calibrate import calibrate
from medcalib.engine.compare.folder import NONE, CellFolder
from medcalib.engine.compare.plan import Plan, read_plan
from medcalib.engine.compare.scoring import Rows, Scored, score_rows
from medcalib.engine.run import METRICS, SPLIT, cases_of, check_same
from medcalib.engine.status import STATUS
from medcalib.engine.train import train
from medcalib.errors import ConfigError, MedcalibError
from medcalib.files import read_json

FOLDS = 5  # of the patients, where the scored split is the one that calibrators are fitted on


def work(out: Path, folder: CellFolder, device: str, root: str | None, *, keep: bool = False) -> None:
    """Do what is left of a cell of the comparison in `out`, and write into cell.json what it took.

    A calibrator that cannot be fitted costs its own row: the others are scored before `ConfigError` is raised.
    """
    plan = read_plan(out)
    config = plan.config_of(folder.cell, device, root)
    chosen = torch.device(device)
    if chosen.type == "cuda":
        torch.cuda.set_device(chosen)  # else pinned memory would make a context on the first GPU
    folder.write(device=_named(chosen))
    _trained(config, folder, chosen)
    problems = {name: problem for name in plan.calibrators if (problem := _fitted(name, plan, config, folder))}
    wanted = [row for row in folder.unscored(list(plan.calibrators)) if row not in problems]
    if wanted:
        files = {row: None if row == NONE else folder.calibrator(row) for row in wanted}
        rows = Rows(files, {row: folder.scores(row) for row in wanted}, _kept(folder, wanted) if keep else {})
        scored = score_rows(folder.run, config, chosen, rows, split=plan.split, weights=plan.weights)
        _note(folder, scored, wanted)
    if problems:
        raise ConfigError("\n".join(f"{name}: {problem}" for name, problem in problems.items()))


def _trained(config: RunConfig, folder: CellFolder, device: torch.device) -> None:
    run = folder.run
    if run.exists() and not (run / SPLIT).is_file():
        shutil.rmtree(run)  # a process was killed while it made the folder
    if (run / STATUS).is_file() and read_json(run / STATUS)["status"] == "finished":
        check_same(run, config)  # not loaded again only to see that no epoch is left
    else:
        train(config, run, resume=True)
        if device.type == "cuda":
            folder.write(peak_mib=round(torch.cuda.max_memory_allocated(device) / 2**20, 1))
    _seconds(folder, train=_of_steps(run))


def _fitted(name: str, plan: Plan, config: RunConfig, folder: CellFolder) -> str | None:
    """Fit a calibrator unless it is there; returns why it cannot be."""
    if folder.calibrator(name).is_file():
        return None
    began = time.perf_counter()
    folds = 0
    if plan.split == FITTED_ON:
        folds = min(FOLDS, len({case.patient_id for case in cases_of(folder.run, config, FITTED_ON)}))
    device = config.train.device
    try:
        calibrate(
            folder.run,
            folder.calibrator(name),
            method=name,
            folds=folds,
            data=config.data.root,
            device=device,
            weights=plan.weights,
        )
    except MedcalibError as error:
        return str(error)
    _seconds(folder, **{name: {"fit": round(time.perf_counter() - began, 3)}})
    return None


def _kept(folder: CellFolder, rows: list[str]) -> dict[str, Path]:
    return {row: folder.predictions(row) for row in rows}


def _note(folder: CellFolder, scored: Scored, rows: list[str]) -> None:
    """Into cell.json: seconds of every row that was scored, and where its scores are."""
    state = folder.state()
    seconds, took = state["seconds"], scored.seconds
    for row in rows:
        if row == NONE:
            seconds |= {"predict": took["predict"], "score": took[NONE]}
        else:
            seconds[row] = {**seconds.get(row, {}), "apply and score": took[row]}
    where = state["scores"] | {row: folder.scores(row).name for row in rows}
    refused = max(scored.refused, state["refused"])
    folder.write(weights_epoch=scored.epoch, seconds=seconds, scores=where, refused=refused)


def _seconds(folder: CellFolder, **took: Any) -> None:
    folder.write(seconds=folder.state()["seconds"] | took)


def _of_steps(run: Path) -> float:
    """Seconds of all training steps, those before an interruption included."""
    lines = (run / METRICS).read_text(encoding="utf-8").splitlines()
    return round(sum(float(json.loads(line)["seconds"]) for line in lines), 3)


def _named(device: torch.device) -> str:
    return f"{device} ({torch.cuda.get_device_name(device)})" if device.type == "cuda" else str(device)
