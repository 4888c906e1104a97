"""The figures of the page, drawn from the rows of the study."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from estimators.experiments import REGION
from estimators.tables import REGIONS
from medcalib.report.plots import COLORS, MARKERS, new_axes, svg
from medcalib.report.plots.style import DASHES, INK, finish

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Rows = Sequence[dict[str, str]]
SIZE = (5.6, 3.2)


def _chosen(rows: Rows, **wanted: str) -> list[dict[str, str]]:
    wanted = {"anatomy": "heart"} | wanted
    return [row for row in rows if all(row[key] == value for key, value in wanted.items())]


def _columns(rows: Rows, *names: str) -> list[list[float]]:
    return [[float(row[name]) for row in rows] for name in names]


def _style(place: int) -> dict[str, object]:
    return {"color": COLORS[place], "marker": MARKERS[place], "ls": DASHES[place], "ms": 4, "lw": 1.3}


def by_patients(rows: Rows) -> Axes:
    """Mean estimate of a calibrated prediction against patients."""
    ax = new_axes(*SIZE)
    names = {
        "ece (100 bins)": "ECE, 100 bins",
        "ece (15 bins)": "ECE, 15 bins",
        "ece (5 bins)": "ECE, 5 bins",
        "mean over cases": "mean over cases, 15 bins",
        "ece across": "across patients, 15 bins",
    }
    for place, (estimator, label) in enumerate(names.items()):
        found = _chosen(rows, study="estimators", predictor="exact", region=REGION, estimator=estimator)
        patients, mean = _columns(found, "patients", "mean")
        ax.plot(patients, mean, label=label, **_style(place))
    _log_patients(ax, _chosen(rows, study="estimators", predictor="exact", region=REGION))
    ax.axhline(0, color=INK, lw=0.8)
    ax.set_ylabel("mean estimate (true: 0)")
    finish(ax)
    return ax


def _log_patients(ax: Axes, found: Rows) -> None:
    ax.set_xscale("log", base=2)
    ticks = sorted({int(row["patients"]) for row in found})
    ax.set_xticks(ticks, [str(n) for n in ticks])
    ax.set_xlabel("patients")


def by_voxels(rows: Rows) -> Axes:
    """Mean and spread of the ECE of a calibrated prediction against voxels, labels as drawn and independent."""
    ax = new_axes(*SIZE)
    for place, (kind, label) in enumerate(
        {"labels as drawn": "labels as drawn: neighbors agree", "labels independent": "independent labels"}.items()
    ):
        found = _chosen(rows, study="dependence", predictor="exact", region=REGION, estimator=kind)
        voxels, mean, sd = _columns(found, "value", "mean", "sd")
        ax.plot(voxels, mean, label=label, **_style(place))
        low, high = ([m + sign * s for m, s in zip(mean, sd, strict=True)] for sign in (-1, 1))
        ax.fill_between(voxels, low, high, color=COLORS[place], alpha=0.15, lw=0)
    ax.set_xscale("log")
    ax.set_yscale("log")
    ax.set_xlabel("voxels of 8 patients that are kept")
    ax.set_ylabel("ECE, 15 bins (true: 0)")
    finish(ax)
    return ax


def by_temperature(rows: Rows) -> Axes:
    """The ECE that each region converges to against the temperature of the prediction."""
    ax = new_axes(*SIZE)
    for place, region in enumerate(REGIONS):
        found = _chosen(rows, study="temperature", region=region)
        temperature, value = _columns(found, "value", "true")
        ax.plot(temperature, value, label=region, **_style(place))
    ax.axvline(1, color=INK, lw=0.8)
    ax.set_ylim(0, None)
    ax.set_xlabel("T of the prediction softmax(log posterior / T); 1 is calibrated")
    ax.set_ylabel("ECE without label noise")
    finish(ax)
    return ax


def by_interval(rows: Rows) -> Axes:
    """Share of 95 % intervals that hold the true value against patients."""
    ax = new_axes(*SIZE)
    place = 0
    for estimator in ("ece: BCa (medcalib)", "ece across: Student"):
        for predictor in ("exact", "T = 0.8"):
            found = _chosen(rows, study="coverage", predictor=predictor, region=REGION, estimator=estimator)
            patients, covered = _columns(found, "patients", "covered")
            ax.plot(patients, covered, label=f"{estimator}, {predictor}", **_style(place))
            place += 1
    _log_patients(ax, found)
    ax.axhline(0.95, color=INK, lw=0.8)
    ax.set_ylim(-0.03, 1.03)
    ax.set_ylabel("intervals with the true value")
    finish(ax)
    return ax


PICTURES: dict[str, Callable[[Rows], Axes]] = {
    "patients": by_patients,
    "voxels": by_voxels,
    "temperature": by_temperature,
    "coverage": by_interval,
}


def write_pictures(rows: Rows, folder: Path) -> None:
    """estimators_NAME.svg for each."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, draw in PICTURES.items():
        (folder / f"estimators_{name}.svg").write_bytes(svg(partial(draw, rows), tight=True))
