"""The command `medcalib compare`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from medcalib.cli_support import AsJson, Data, Set, echo_json, load_config
from medcalib.errors import ConfigError, Exit

if TYPE_CHECKING:
    from medcalib.engine.compare.runner import Outcome

_OWN = ("loss", "train.seed", "train.device")

Folder = Annotated[Path, typer.Option(help="Folder of the comparison; the same command goes on there.")]
Config = Annotated[
    str | None, typer.Argument(help="A YAML config, or the name of a shipped one; not needed with --table.")
]
Losses = Annotated[
    str | None, typer.Option(help="Losses, as in ce,mbls,nacl; their options are the config's, else defaults.")
]
Method = Annotated[
    list[str] | None,
    typer.Option(metavar="LABEL=LOSS", help="A method of yours: 'mbls5={name: mbls, margin: 5}'. Repeatable."),
]
Sweep = Annotated[
    list[str] | None,
    typer.Option(metavar="METHOD.OPTION=VALUES", help="One method a value: mbls.margin=1,5,10. Repeatable."),
]
Seeds = Annotated[str | None, typer.Option(help="Of the trainings, as in 0,1,2; the split stays. [default: 0]")]
Calibrators = Annotated[
    str | None, typer.Option(help="Also repair every network by these, fitted on its validation cases.")
]
Split = Annotated[
    Literal["test", "val"] | None,
    typer.Option(help="Cases that are scored; calibrators of val are cross-fitted. [default: test]"),
]
Weights = Annotated[Literal["best", "last"] | None, typer.Option(help="[default: best]")]
Devices = Annotated[str | None, typer.Option(help="cpu, or cuda:0,cuda:1; the config's unless given.")]
Jobs = Annotated[int, typer.Option(min=1, help="Cells at once on each device.")]
Part = Annotated[str | None, typer.Option(metavar="i/N", help="Do only part i of N, from 0/N to N-1/N, into one OUT.")]
Keep = Annotated[Literal["predictions"] | None, typer.Option(help="Keep the predictions too.")]
Reference = Annotated[str | None, typer.Option(help="Method that the others are compared to; the first unless given.")]
OnlyTable = Annotated[bool, typer.Option("--table", help="Only write the table of what is there.")]


def compare(
    out: Folder,
    config: Config = None,
    data: Data = None,
    losses: Losses = None,
    method: Method = None,
    sweep: Sweep = None,
    seeds: Seeds = None,
    calibrators: Calibrators = None,
    split: Split = None,
    weights: Weights = None,
    devices: Devices = None,
    jobs: Jobs = 1,
    shard: Part = None,
    keep: Keep = None,
    reference: Reference = None,
    table: OnlyTable = False,
    set_: Set = None,
    as_json: AsJson = False,
) -> int:
    """Train methods x seeds, repair, score and rank them. OUT gets a page and tables with intervals and ranks.

    Started again it goes on: finished cells are kept, interrupted trainings resume. Losses, seeds and calibrators may
    be added. A cell that fails is named in the table, and the others go on.
    """
    if table:
        return _tell(out, as_json, None)
    if config is None:
        raise ConfigError("name a CONFIG, or only write the table of what is there by --table")
    _refuse_own(set_ or [])
    base = load_config(config, set_, data)
    from medcalib.engine.compare.planning import Request, devices_of, planned
    from medcalib.engine.compare.runner import Options, run_cells
    from medcalib.engine.shards import Shard
    from medcalib.report.page_templates import require_drawing

    require_drawing()
    part = None if shard is None else Shard.parse(shard)
    slots = devices_of(devices, base)
    request = Request(
        _listed(losses), method or (), sweep or (), _seeds(seeds), _listed(calibrators), split, weights, reference
    )
    plan = planned(base, request, out)
    plan.write(out)
    outcome = run_cells(plan, out, Options(slots, jobs, part, str(base.root), keep is not None))
    return _tell(out, as_json, outcome)


def _refuse_own(overrides: list[str]) -> None:
    """Loss, seed and device are what a comparison sets itself."""
    for text in overrides:
        key = text.partition("=")[0].strip()
        if key in _OWN or key.startswith("loss."):
            raise ConfigError(
                f"--set {text}: a comparison sets it for each cell; use --losses, --method, --sweep, --seeds, --devices"
            )


def _listed(text: str | None) -> list[str]:
    return [] if text is None else [word.strip() for word in text.split(",") if word.strip()]


def _seeds(text: str | None) -> list[int]:
    words = _listed(text)
    wrong = [word for word in words if not (word.isascii() and word.isdecimal())]
    if wrong:
        raise ConfigError(f"--seeds {text}: expected whole numbers such as 0,1,2, got {', '.join(wrong)}")
    return [int(word) for word in words]


def _tell(out: Path, as_json: bool, outcome: Outcome | None) -> int:
    """Write the tables; show them, and what failed."""
    from medcalib.report.comparison import comparison_text, write_comparison

    results: dict[str, Any] = write_comparison(out)
    if as_json:
        echo_json(results)
    else:
        typer.echo(comparison_text(results))
        typer.echo(f"wrote {out / 'index.html'}")
    if outcome is None:
        return Exit.OK
    for cell, error in outcome.failed.items():
        typer.echo(f"failed: {cell}: {error}", err=True)
    for cell, refused in outcome.refused.items():
        typer.echo(f"{cell}: {refused} cases were refused, see its scores.json", err=True)
    return Exit.SOME_REFUSED if outcome.failed or outcome.refused else Exit.OK
