"""The whole study as rows of one table."""

from __future__ import annotations

import csv
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from estimators.coverage import coverage
from estimators.edges import edge_rules
from estimators.experiments import Design, Row, best_temperature, compared, dependence, regions, truths
from estimators.population import part_of, population
from estimators.predictors import PREDICTORS
from estimators.tables import score_population

COLUMNS = (
    *("anatomy", "study", "predictor", "region", "estimator", "patients", "fraction"),
    *("true", "mean", "bias", "sd", "rmse", "value", "covered", "above", "below", "width"),
)
IN_FULL = ("exact", "T = 0.5", "T = 0.8", "noisy")  # predictors of which every estimator is tried
INTERVALS = ("exact", "T = 0.8", "noisy")
DEPENDENCE_PATIENTS = 8


@dataclass(frozen=True)
class Sizes:
    """Patients and label maps of each in the population, data sets drawn, intervals made, numbers of patients."""

    patients: int = 64
    raters: int = 32
    draws: int = 2000
    intervals: int = 400
    numbers: tuple[int, ...] = (1, 2, 4, 8, 16, 32)
    temperature_patients: int = 16
    temperature_raters: int = 8


FULL = {"heart": Sizes(), "hippocampus": Sizes(patients=48, raters=24, draws=1000, intervals=200)}
TINY = {"heart": Sizes(4, 3, 40, 4, (1, 4), 2, 2)}


def study(sizes: dict[str, Sizes], seed: int) -> Iterator[Row]:
    """Every row; the first anatomy with all predictors, others with the exact and a sharpened one."""
    for place, (anatomy, size) in enumerate(sizes.items()):
        yield from _anatomy(anatomy, size, seed, whole=place == 0)


def _anatomy(anatomy: str, size: Sizes, seed: int, *, whole: bool) -> Iterator[Row]:
    patients = population(anatomy, size.patients, size.raters, seed)
    design = Design(size.draws, size.numbers, seed)
    chosen = tuple(PREDICTORS) if whole else ("exact", "T = 0.8")
    for name in chosen:
        scored = score_population(patients, PREDICTORS[name], seed)
        names = {"anatomy": anatomy, "predictor": name}
        yield from truths(scored, **names)
        if name in IN_FULL:
            yield from compared(scored, design, **names)
            yield from regions(scored, design, **names)
            yield from dependence(scored, design, DEPENDENCE_PATIENTS, **names)
        if name in INTERVALS:
            yield from coverage(scored, design, size.intervals, **names)
    fewer = part_of(patients[: size.temperature_patients], size.temperature_raters)
    yield from best_temperature(fewer, anatomy=anatomy)
    if whole:
        yield from edge_rules(patients, seed, anatomy=anatomy)


def write(rows: Iterator[Row] | Sequence[Row], path: Path) -> None:
    """One line a row, six significant digits."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, COLUMNS, lineterminator="\n")
        writer.writeheader()
        for row in rows:
            writer.writerow({key: f"{value:.6g}" if isinstance(value, float) else value for key, value in row.items()})


def read(path: Path) -> list[dict[str, str]]:
    """The rows as they were written."""
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))
