"""What the commands share: option types, the guard that turns errors into exit codes, and printing."""

from __future__ import annotations

import functools
import json
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, Literal

import typer
import typer.core

import medcalib
from medcalib.errors import ConfigError, Exit, MedcalibError, Problem, grouped
from medcalib.files import DISK_FULL
from medcalib.options import suggestion
from medcalib.plain import printable

Command = Callable[..., "int | None"]

Config = Annotated[str, typer.Argument(help="A YAML config, or the name of a shipped one (see `datasets`).")]
Data = Annotated[str | None, typer.Option(help="Dataset folder; takes the place of data.root.")]
Out = Annotated[Path, typer.Option(help="Folder to write.")]
Set = Annotated[list[str] | None, typer.Option("--set", help="Change a key: --set train.epochs=5. Repeatable.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]
Predictions = Annotated[
    Path, typer.Option(help="Folder of probabilities: <case>.nii.gz, .npz, .npy, or one NIfTI a class.")
]
Logits = Annotated[bool, typer.Option("--logits", help="Values are logits where nothing says what they are.")]
AssumeOrientation = Annotated[
    bool, typer.Option("--assume-orientation", help="Take an array's axes for the documented ones without proof.")
]
Labels = Annotated[
    Path,
    typer.Option(help="Reference labels: the dataset folder with --config, else a folder of <case>.nii.gz."),
]
Weights = Annotated[
    Literal["best", "last"], typer.Option(help="Of the best validation Dice, or of the last epoch (as nnU-Net).")
]


def show_version(wanted: bool) -> None:
    """Print the version and end, when `--version` is given."""
    if wanted:
        typer.echo(f"medcalib {medcalib.__version__}")
        raise typer.Exit


Version = Annotated[
    bool, typer.Option("--version", is_eager=True, callback=show_version, help="Show the version and exit.")
]
OptionalConfig = Annotated[str | None, typer.Option("--config", help="Config that says how to read --labels.")]


class Commands(typer.core.TyperGroup):
    """Commands of which an unknown name is told with the one that is like it, or with all."""

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        """The command that `args` begin with."""
        if not args[0].startswith("-") and not ctx.resilient_parsing and self.get_command(ctx, args[0]) is None:
            ctx.fail(f"No such command {args[0]!r}; {suggestion(args[0], self.list_commands(ctx))}")
        return super().resolve_command(ctx, args)


def guarded(function: Command) -> Callable[..., None]:
    """A command whose return value is the exit code and whose known errors end in one clear text."""

    @functools.wraps(function)
    def run(*args: Any, **kwargs: Any) -> None:
        try:
            code = function(*args, **kwargs)
        except MedcalibError as error:
            told = "\n" in str(error) or str(error).startswith("error: ")  # a list of problems says it of each
            typer.echo(printable(str(error) if told else f"error: {error}"), err=True)
            code = error.exit_code
        except KeyboardInterrupt:
            typer.echo("interrupted", err=True)
            code = Exit.INTERRUPTED
        except OSError as error:  # an unwritable folder, a full disk, a folder that is already there
            if isinstance(error, BrokenPipeError):
                raise
            named = f"{error.filename}: {error.strerror}" if error.filename and error.strerror else str(error)
            if error.errno in DISK_FULL:
                named += "; free space there or choose another --out; what is finished is whole, nothing half-written"
            typer.echo(printable(f"error: {named}"), err=True)
            code = Exit.USAGE
        if code:
            raise typer.Exit(int(code))

    return run


def load_config(config: str, overrides: list[str] | None, data: str | None, loss: str | None = None) -> Any:
    """The `RunConfig` of a path or of a shipped config's name, with the options applied."""
    from medcalib.config import load
    from medcalib.config.bundled import resolve

    return load(resolve(config), overrides=overrides or (), data=data, loss=loss)


def optional_config(config: str | None, overrides: list[str] | None, data: str | None) -> Any:
    """The config where one is given; options that only change a config need one."""
    if config is None and (overrides or data):
        raise ConfigError("--set and --data change a config; name it with --config")
    return None if config is None else load_config(config, overrides, data)


def echo_index(index: dict[str, Any], summary: str, as_json: bool) -> None:
    """What was done and what was refused."""
    if as_json:
        echo_json(index)
        return
    from medcalib.report.text import refusal_line

    typer.echo(summary)
    for refused in together(index["refused"]):
        typer.echo(refusal_line(refused), err=True)


def together(refused: list[dict[str, str]]) -> list[dict[str, str]]:
    """Refused cases for a reader: one entry for many whose reasons are alike."""
    found = grouped(Problem(entry["case"], entry["reason"], entry["message"]) for entry in refused)
    return [{"case": entry.where, "reason": entry.reason, "message": entry.message} for entry in found]


def echo_json(value: Any) -> None:
    """Print JSON, with null for what is not a number; in plain ASCII where the output is not UTF-8."""
    utf8 = (sys.stdout.encoding or "").replace("-", "").lower() == "utf8"
    typer.echo(json.dumps(value, indent=1, ensure_ascii=not utf8, allow_nan=False))


def shortened(names: list[str]) -> str:
    """The first names of a list, and how many more there are."""
    return ", ".join(names[:4]) + (f" and {len(names) - 4} more" if len(names) > 4 else "")


LOSS_SYMBOLS = (
    "z logits, p = softmax(z), q one-hot labels, t the true class, C classes, w the weight, sg no gradient,\n"
    "tau class shares of the window; a mean over valid voxels. More: the docstrings of the terms in medcalib.losses"
)


def loss_text(loss: dict[str, Any]) -> str:
    """A method of `medcalib losses` for the terminal."""
    defaults = ", ".join(f"{key}={value}" for key, value in loss["defaults"].items())
    lines = [f"{loss['name']:<16}{loss['equation']}", defaults, loss["reference"], loss["note"]]
    return "\n".join([lines[0], *(textwrap.indent(textwrap.fill(line, 100), " " * 16) for line in lines[1:] if line)])
