"""The commands `medcalib calibrate`, `medcalib apply` and `medcalib calibrators`."""

from __future__ import annotations

import json
import textwrap
from pathlib import Path
from typing import Annotated, Any

import typer

from medcalib.cli_support import (
    AsJson,
    AssumeOrientation,
    Data,
    Logits,
    OptionalConfig,
    Out,
    Predictions,
    Set,
    Weights,
    echo_index,
    echo_json,
    optional_config,
    together,
)
from medcalib.errors import ConfigError, Exit

CALIBRATOR_SYMBOLS = "z logits, p = softmax(z), C classes, k a class, x a voxel; fitted by the NLL in float64"
OptionalLabels = Annotated[
    Path | None,
    typer.Option(help="Reference labels: the dataset folder with --config, else a folder of <case>.nii.gz."),
]

File = Annotated[Path, typer.Option(help="File to write, such as temperature.safetensors.")]
Run = Annotated[Path | None, typer.Argument(help="A run folder: fits on its validation split.")]
HeldOut = Annotated[
    Path | None, typer.Option(help="In place of a run: held-out predictions of any tool, with --labels.")
]
Method = Annotated[str, typer.Option(help="See `medcalib calibrators`.")]
MethodOptions = Annotated[
    list[str] | None, typer.Option(metavar="KEY=VALUE", help="An option of the method: gamma=0. Repeatable.")
]
Voxels = Annotated[int, typer.Option(min=0, help="Voxels of each case, drawn at random; 0: all.")]
Region = Annotated[
    str, typer.Option(help="Voxels to fit on: all, foreground, gt_foreground, pred_foreground, boundary.")
]
Seed = Annotated[int | None, typer.Option(min=0, help="Of sample and folds; the run's unless given.")]
Folds = Annotated[
    int, typer.Option(min=0, help="Also fit without each of so many parts of the patients (cross-fitting).")
]


def calibrate(
    out: File,
    run: Run = None,
    predictions: HeldOut = None,
    labels: OptionalLabels = None,
    method: Method = "temperature",
    option: MethodOptions = None,
    voxels: Voxels = 100_000,
    region: Region = "all",
    seed: Seed = None,
    folds: Folds = 0,
    weights: Weights = "best",
    data: Data = None,
    config: OptionalConfig = None,
    set_: Set = None,
    logits: Logits = False,
    assume_orientation: AssumeOrientation = False,
    device: str = "auto",
    as_json: AsJson = False,
) -> int:
    """Fit a calibrator on held-out cases. Those are the validation split of a run, or predictions of any tool.

    Apply it with `predict --calibrator`, or to predictions on disk with `apply`.
    """
    if (run is None) == (predictions is None):
        raise ConfigError("name a RUN, or --predictions with --labels")
    from medcalib.engine.calibrate import calibrate as of_run
    from medcalib.engine.calibrate import calibrate_predictions
    from medcalib.engine.fit_samples import Sampling

    refused: list[dict[str, str]] = []
    common: dict[str, Any] = {"method": method, "options": _options(option or []), "folds": folds}
    sampling = Sampling(voxels or None, region, seed)
    if run is not None:
        _only_for_predictions(labels=labels, config=config, set=set_, logits=logits, orientation=assume_orientation)
        fitted = of_run(run, out, **common, sampling=sampling, data=data, device=device, weights=weights)
    elif predictions is not None and labels is not None:
        loaded = optional_config(config, set_, data)
        common |= {"assume_logits": logits, "assume_orientation": assume_orientation}
        fitted, refused = calibrate_predictions(predictions, labels, out, **common, sampling=sampling, config=loaded)
    else:
        raise ConfigError("--predictions needs --labels")
    _tell(fitted, out, refused, as_json)
    return Exit.SOME_REFUSED if refused else Exit.OK


def apply(
    calibrator: Annotated[Path, typer.Argument(help="A file that `calibrate` wrote.")],
    predictions: Predictions,
    out: Out,
    labels: Annotated[
        Path | None,
        typer.Option(help="Labels or images that tell the grid (for .npz, .npy) and, with --config, the patient."),
    ] = None,
    config: OptionalConfig = None,
    set_: Set = None,
    logits: Logits = False,
    assume_orientation: AssumeOrientation = False,
    as_json: AsJson = False,
) -> int:
    """Repair predictions of any tool with a calibrator. OUT becomes a folder that `score` and `maps` read."""
    from medcalib.engine.apply import apply_calibrator

    index = apply_calibrator(
        calibrator,
        predictions,
        out,
        labels=labels,
        config=optional_config(config, set_, None),
        assume_logits=logits,
        assume_orientation=assume_orientation,
    )
    done = len(index["cases"]) - len(index["refused"])
    echo_index(index, f"repaired {done} of {len(index['cases'])} cases: {out}", as_json)
    return Exit.SOME_REFUSED if index["refused"] else Exit.OK


def calibrators(
    names: Annotated[list[str] | None, typer.Argument(help="Methods, or files that `calibrate` wrote.")] = None,
    as_json: AsJson = False,
) -> int:
    """The calibrators: formula, options with defaults, source. Of a file: its parameters and what it was fitted on."""
    from medcalib.calibrators import names as known
    from medcalib.config.listing import list_calibrator
    from medcalib.engine.fitted import contents

    found = [contents(Path(name)) if Path(name).is_file() else list_calibrator(name) for name in names or known()]
    if not names:
        found = [{key: value for key, value in entry.items() if key != "about"} for entry in found]
    if as_json:
        echo_json(found)
    else:
        typer.echo("\n\n".join(_text(entry) for entry in found) + f"\n\n{CALIBRATOR_SYMBOLS}")
    return Exit.OK


def _options(given: list[str]) -> dict[str, Any]:
    """KEY=VALUE with a JSON value, or a word."""
    found: dict[str, Any] = {}
    for text in given:
        key, equals, value = text.partition("=")
        if not equals or not key or key in found:
            raise ConfigError(f"--option {text}: expected KEY=VALUE, each key once")
        try:
            found[key] = json.loads(value)
        except ValueError:
            found[key] = value
    return found


def _only_for_predictions(**given: Any) -> None:
    used = [key for key, value in given.items() if value]
    if used:
        raise ConfigError(f"{', '.join(used)}: only for --predictions; a run brings its own config and labels")


def _tell(fitted: Any, out: Path, refused: list[dict[str, str]], as_json: bool) -> None:
    from medcalib.report.text import refusal_line, table

    facts = fitted.facts
    if as_json:
        shown = {**fitted.plain(), **{key: value for key, value in facts.items() if key != "folds"}}
        echo_json({**shown, "refused": refused})
        return
    for entry in together(refused):
        typer.echo(refusal_line(entry), err=True)
    typer.echo(repr(fitted))
    used = f"{facts['voxels']:,} voxels of {len(facts['cases'])} cases, region {facts['region']}"
    columns = [name for name in ("before", "after", "held_out") if facts.get(name)]
    told = [key for key in facts["before"] if facts["region"] != "pred_foreground" or key in ("nll", "ece_all")]
    rows = [[key.replace("ece_all", "ece"), *(_number(facts[name][key]) for name in columns)] for key in told]
    typer.echo(f"fitted on {used}\n{table(rows, ['on the voxels of the fit', *columns])}")
    for line in _advice(facts, fitted.name):
        typer.echo(line, err=True)
    typer.echo(f"wrote {out}")


def _advice(facts: dict[str, Any], method: str) -> list[str]:
    """What a reader of these numbers should know."""
    found, region = [], facts["region"]
    if region in ("foreground", "gt_foreground", "boundary"):
        found.append(
            f"region {region} is chosen by the reference: even a calibrated network would be changed by this fit; "
            "pred_foreground is not"
        )
    honest = facts.get("held_out") or facts["after"]
    before, after = facts["before"]["ece_pred_foreground"], honest["ece_pred_foreground"]
    if before is not None and after is not None and after > before:
        found.append(f"the ECE of the predicted foreground became worse: {_remedy(region, method)}")
    return found


def _remedy(region: str, method: str) -> str:
    """What may help where a fit made the predicted foreground worse."""
    if region == "pred_foreground":
        return "the fit lowers the NLL, not the ECE; try another --method, and judge it on cases of neither side"
    others = " or ".join(name for name in ("region_temperature", "classwise_temperature") if name != method)
    few = "the fit is over all voxels, and most are background" if region == "all" else f"the fit is over {region}"
    return f"{few}; consider --region pred_foreground, or --method {others}"


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.5f}"


def _text(entry: dict[str, Any]) -> str:
    """A method, or a file, for the terminal."""
    indent = " " * 4
    lines = [entry["name"]]
    for key, value in entry.items():
        if key == "about":
            lines.append("\n" + textwrap.indent(value, indent))
        elif key != "name" and value not in (None, {}, ""):
            shown = ", ".join(f"{k}={v}" for k, v in value.items()) if isinstance(value, dict) else str(value)
            lines.append(textwrap.fill(f"{key}: {shown}", 110, initial_indent=indent, subsequent_indent=2 * indent))
    return "\n".join(lines)
