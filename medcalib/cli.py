"""The command line: parse, call, exit code. Heavy imports happen inside the commands."""

from __future__ import annotations

import logging
import sys
from pathlib import Path
from typing import Annotated, Literal

import typer

from medcalib.cli_bench import bench
from medcalib.cli_calibrate import apply, calibrate, calibrators
from medcalib.cli_compare import compare
from medcalib.cli_maps import maps
from medcalib.cli_score import merge, pseudonymize, score
from medcalib.cli_support import (
    LOSS_SYMBOLS,
    AsJson,
    Command,
    Commands,
    Config,
    Data,
    Out,
    Set,
    Version,
    Weights,
    echo_index,
    echo_json,
    guarded,
    load_config,
    loss_text,
    optional_config,
    shortened,
)
from medcalib.errors import ConfigError, Exit, PreemptedError, grouped
from medcalib.plain import PlainFormatter, one_line

app = typer.Typer(
    name="medcalib", cls=Commands, no_args_is_help=True, pretty_exceptions_enable=False, rich_markup_mode=None
)
app.add_typer(bench, name="bench", cls=Commands)


def command(function: Command) -> Command:
    """Register a command under its name."""
    app.command()(guarded(function))
    return function


@command
def demo(out: Out = Path("demo")) -> int:
    """The whole story on a generated phantom, in minutes. On the CPU; ends with OUT/report.html."""
    from medcalib.demo import run_demo

    typer.echo(f"report: {run_demo(out)}")
    return Exit.OK


@command
def phantom(
    layout: Annotated[Literal["acdc", "brats", "flare", "msd", "nnunet"], typer.Option(help="Layout on disk.")],
    out: Out,
    cases: Annotated[int, typer.Option(min=1, help="Cases (patients for acdc).")] = 24,
    seed: Annotated[int, typer.Option(min=0)] = 0,
    anatomy: Annotated[str | None, typer.Option(help="heart, tumor, abdomen or hippocampus.")] = None,
) -> int:
    """Generate a dataset whose true class posterior is known. Its boundaries are ambiguous."""
    from medcalib.data.phantom import write_dataset

    try:
        root = write_dataset(layout, cases, seed, out, anatomy=anatomy)
    except ValueError as error:
        raise ConfigError(str(error)) from error
    typer.echo(f"wrote {root}")
    return Exit.OK


@command
def check(config: Config, data: Data = None, set_: Set = None, as_json: AsJson = False) -> int:
    """Report every problem of a config and its data at once."""
    loaded = load_config(config, set_, data)  # first: a wrong name needs none of the imports
    from medcalib.engine.inspect import inspect
    from medcalib.report.text import facts_text

    found = inspect(loaded)
    if as_json:
        echo_json({"problems": [vars(p) for p in found.problems], **found.facts})
    else:
        for problem in grouped(found.problems):
            typer.echo(one_line(str(problem)), err=problem.level == "error")
        typer.echo(facts_text(found.facts))
        typer.echo("refused: correct the errors above" if found.refused else "ok")
    return Exit.DATA_REFUSED if found.refused else Exit.OK


@command
def train(
    config: Config,
    out: Out,
    data: Data = None,
    loss: Annotated[str | None, typer.Option(help="A loss; its options are the config's, else defaults.")] = None,
    device: Annotated[str | None, typer.Option(help="In place of train.device: auto, cpu, cuda, cuda:1.")] = None,
    set_: Set = None,
    resume: Annotated[bool, typer.Option("--resume", help="Continue after the last checkpoint.")] = False,
) -> int:
    """Train a network. OUT becomes a run folder, whose progress.html shows the curves meanwhile.

    SIGTERM, SIGUSR1 and Ctrl-C end it after a step, with code 75.
    """
    placed = [] if device is None else [f"train.device={device}"]
    loaded = load_config(config, [*(set_ or ()), *placed], data, loss)
    from medcalib.distributed import is_main
    from medcalib.engine.train import train as run_training
    from medcalib.report.run_page import RunPage

    try:
        run_training(loaded, out, resume=resume, followers=[RunPage(out)])
    except PreemptedError as stopped:
        typer.echo(str(stopped), err=True)
        return Exit.PREEMPTED
    if is_main():
        typer.echo(f"trained: {out}")
    return Exit.OK


@command
def predict(
    run: Annotated[Path, typer.Argument(help="A run folder.")],
    out: Out,
    split: Annotated[Literal["train", "val", "test"], typer.Option()] = "test",
    data: Data = None,
    device: str = "auto",
    weights: Weights = "best",
    calibrator: Annotated[Path | None, typer.Option(help="A file that `calibrate` wrote for this run.")] = None,
    as_json: AsJson = False,
) -> int:
    """Write the probabilities of a run on one split. They are on the images' own grids."""
    from medcalib.engine.predict import predict as run_prediction

    index = run_prediction(run, out, split=split, data=data, device=device, weights=weights, calibrator=calibrator)
    done = len(index["cases"]) - len(index["refused"])
    echo_index(index, f"predicted {done} of {len(index['cases'])} cases: {out}", as_json)
    return Exit.SOME_REFUSED if index["refused"] else Exit.OK


command(calibrate)
command(apply)
command(calibrators)
command(score)
command(merge)
command(pseudonymize)
command(maps)
command(compare)


@command
def report(
    scores: Annotated[list[Path], typer.Argument(help="One or more folders that `score` wrote.")],
    out: Annotated[Path, typer.Option(help="The HTML file to write.")],
    maps: Annotated[list[Path] | None, typer.Option(help="Folders that `maps` wrote, one per SCORES.")] = None,
    config: Annotated[str | None, typer.Option(help="With --data: shows the images below the maps.")] = None,
    data: Data = None,
    set_: Set = None,
    cases: Annotated[int, typer.Option(min=1, help="Cases a method in slices, from the worst to the best.")] = 3,
    title: Annotated[str, typer.Option(help="Heading of the page.")] = "Calibration report",
) -> int:
    """One self-contained HTML page of scores. Needs no GPU and no images. Code 4: some scores have no case."""
    from medcalib.files import read_json
    from medcalib.report import build_report
    from medcalib.report.underlays import underlays

    loaded = optional_config(config, set_, data)
    images = underlays(loaded) if loaded else {}
    written = build_report(scores, out, maps=maps or (), underlays=images, title=title, cases=cases)
    typer.echo(f"report: {written}")
    empty = [str(folder) for folder in scores if not read_json(folder / "scores.json")["n_scored"]]
    if empty:
        typer.echo(f"no case was scored in {', '.join(empty)}", err=True)
    return Exit.SOME_REFUSED if empty else Exit.OK


@command
def schema(
    out: Annotated[Path | None, typer.Option(help="File to write; standard output without it.")] = None,
) -> int:
    """JSON schema of configs, for editors. First line: # yaml-language-server: $schema=FILE."""
    from medcalib.config import json_schema
    from medcalib.files import write_json

    if out is None:
        echo_json(json_schema())
    else:
        write_json(out, json_schema())
        typer.echo(f"wrote {out}")
    return Exit.OK


@command
def doctor(as_json: AsJson = False) -> int:
    """Versions, devices, kernels, and what will get in the way."""
    from medcalib.engine.doctor import doctor as examine
    from medcalib.report.text import facts_text

    facts = examine()
    if as_json:
        echo_json(facts)
    else:
        typer.echo(facts_text(facts))
    return Exit.OK


@command
def datasets(as_json: AsJson = False) -> int:
    """The shipped configs and the layouts that can be read."""
    from medcalib.config.listing import list_datasets
    from medcalib.report.text import table

    found = list_datasets()
    if as_json:
        echo_json(found)
    else:
        rows = [[c["name"], c["layout"], shortened(c["classes"][1:]), c["path"]] for c in found["configs"]]
        typer.echo(table(rows, ["config", "layout", "classes", "file"]))
        typer.echo("\n" + table([[x["name"], x["about"]] for x in found["layouts"]], ["layout", "what it reads"]))
    return Exit.OK


@command
def losses(
    names: Annotated[list[str] | None, typer.Argument(help="Methods; all unless named.")] = None,
    bibtex: Annotated[bool, typer.Option(help="Print the papers to cite.")] = False,
    as_json: AsJson = False,
) -> int:
    """The losses: equation, options with defaults, source."""
    from medcalib.config.listing import list_losses
    from medcalib.losses.citations import entries

    found = list_losses(names or ())
    if as_json:
        echo_json(found)
    elif bibtex:
        cited = {key for loss in found for key in loss["cite"]}
        typer.echo("\n\n".join(e for key, e in entries().items() if key in cited) or "% nothing to cite")
    else:
        typer.echo("\n\n".join([*(loss_text(loss) for loss in found), LOSS_SYMBOLS]))
    return Exit.OK


@app.callback()
def version(show: Version = False) -> None:
    """Train, measure and repair the calibration of 3D medical segmentation. Not a medical device."""
    del show  # its callback has done it


def main() -> None:
    """Entry point."""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")  # a terminal that is not UTF-8 must not end a run
    log = logging.StreamHandler(sys.stderr)
    log.setFormatter(PlainFormatter())
    logging.basicConfig(level=logging.INFO, handlers=[log])
    try:
        app()
    except BrokenPipeError:
        sys.stderr.close()  # the reader of the pipe has gone; there is nobody to tell
    except BaseException as ended:
        _leave_ranks(ended)
        raise


def _leave_ranks(ended: BaseException) -> None:
    """A rank ends here, since the end of the interpreter can hang on its group."""
    ranks = sys.modules.get("medcalib.distributed")
    if ranks is not None and ranks.is_running():
        if not isinstance(ended, SystemExit):
            logging.getLogger(__name__).error("", exc_info=ended)
        ranks.leave(ended.code if isinstance(ended, SystemExit) and isinstance(ended.code, int) else 1)
