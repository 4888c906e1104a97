"""The command `medcalib maps`."""

from __future__ import annotations

from typing import Annotated

import typer

from medcalib.cli_support import (
    AsJson,
    AssumeOrientation,
    Labels,
    Logits,
    OptionalConfig,
    Out,
    Predictions,
    Set,
    echo_index,
    optional_config,
)
from medcalib.errors import ConfigError, Exit

WindowMm = Annotated[
    float | None, typer.Option(help="Edge of the window of the local gap, in mm; 9 when nothing is said.")
]
WindowVoxels = Annotated[
    str | None,
    typer.Option(metavar="N or I,J,K", help="The window in odd voxels instead: 5, or 5,5,1 for the array axes."),
]
Maps = Annotated[
    str | None,
    typer.Option(
        metavar="NAMES",
        help="Only these, by commas: confidence, entropy, error, gap, true_gap, label, prediction, region.",
    ),
]
Classes = Annotated[
    str | None,
    typer.Option(metavar="NAMES", help="Probability and gap of these classes, too, by commas; or all."),
]
Cohort = Annotated[bool, typer.Option("--cohort", help="Also the mean over patients; all cases must lie on one grid.")]


def maps(
    predictions: Predictions,
    labels: Labels,
    out: Out,
    config: OptionalConfig = None,
    set_: Set = None,
    window_mm: WindowMm = None,
    window: WindowVoxels = None,
    maps: Maps = None,
    classes: Classes = None,
    cohort: Cohort = False,
    logits: Logits = False,
    assume_orientation: AssumeOrientation = False,
    as_json: AsJson = False,
) -> int:
    """Write calibration maps as NIfTI on the images' grids. Confidence, entropy, error, local gap, and more."""
    loaded = optional_config(config, set_, None)
    from medcalib.metrics.regions import BOUNDARY_MM
    from medcalib.report.maps import write_maps

    index = write_maps(
        predictions,
        labels,
        out,
        data=loaded.data if loaded else None,
        window_mm=window_mm,
        window_voxels=None if window is None else _voxels(window),
        maps=None if maps is None else _names(maps),
        classes=[] if classes is None else _names(classes),
        cohort=cohort,
        boundary_mm=loaded.score.boundary_mm if loaded else BOUNDARY_MM,
        assume_logits=logits,
        assume_orientation=assume_orientation,
    )
    echo_index(index, f"maps of {len(index['cases'])} cases: {out}", as_json)
    return Exit.SOME_REFUSED if index["refused"] else Exit.OK


def _names(option: str) -> list[str]:
    return [name.strip() for name in option.split(",") if name.strip()]


def _voxels(option: str) -> list[int]:
    try:
        return [int(number) for number in option.split(",")]
    except ValueError as error:
        raise ConfigError(f"--window {option}: expected one odd number of voxels, or three by commas") from error
