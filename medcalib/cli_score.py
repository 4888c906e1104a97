"""The commands `medcalib score`, `medcalib merge` and `medcalib pseudonymize`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

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
    echo_json,
    optional_config,
    together,
)
from medcalib.errors import ConfigError, Exit

Workers = Annotated[int, typer.Option(min=1, help="Processes; any number gives the same bytes.")]
Part = Annotated[
    str | None,
    typer.Option(metavar="i/N", help="Score only part i of N, from 0/N to N-1/N; `merge` makes the whole."),
]
Fresh = Annotated[bool, typer.Option("--fresh", help="Score anew what an earlier run has finished.")]
Strict = Annotated[bool, typer.Option("--strict", help="End at the first refused case.")]
Protocols = Annotated[list[str] | None, typer.Option(help="Also reproduce a published evaluation. Repeatable.")]
Masks = Annotated[
    list[str] | None,
    typer.Option(metavar="NAME=FOLDER", help="Also score a region of yours: <case>.nii.gz in FOLDER. Repeatable."),
]


def score(
    predictions: Predictions,
    labels: Labels,
    out: Out,
    config: OptionalConfig = None,
    set_: Set = None,
    workers: Workers = 1,
    shard: Part = None,
    fresh: Fresh = False,
    strict: Strict = False,
    protocol: Protocols = None,
    mask: Masks = None,
    logits: Logits = False,
    assume_orientation: AssumeOrientation = False,
    as_json: AsJson = False,
) -> int:
    """Score predictions against labels: Dice, HD95, exact ECE. All other scores are in OUT/scores.json.

    Started again, it goes on where it was stopped: a case whose files and settings have not changed is not scored
    again.
    """
    loaded = optional_config(config, set_, None)
    from medcalib.engine.evaluate import evaluate
    from medcalib.engine.shards import Shard

    part = None if shard is None else Shard.parse(shard)
    scores = evaluate(
        predictions,
        labels,
        out,
        config=loaded,
        workers=workers,
        shard=part,
        fresh=fresh,
        strict=strict,
        protocols=protocol or (),
        masks=_masks(mask or []),
        assume_logits=logits,
        assume_orientation=assume_orientation,
    )
    if part is None:
        return _tell(scores, as_json)
    done = f"shard {part}: scored {scores['n_scored']} of {scores['n_expected']} cases: {out / part.file}"
    echo_index(scores, f"{done}\nwhen all shards are done: medcalib merge SCORES... --out SCORES", as_json)
    return _code(scores)


def _masks(options: list[str]) -> dict[str, Path]:
    found: dict[str, Path] = {}
    for option in options:
        name, equals, folder = option.partition("=")
        if not equals or not folder or name in found:
            raise ConfigError(f"--mask {option}: expected NAME=FOLDER, each name once")
        found[name] = Path(folder)
    return found


def merge(
    scores: Annotated[list[Path], typer.Argument(help="Folders that `score` wrote, in any order.")],
    out: Annotated[Path, typer.Option(help="Folder to write; may be one of them.")],
    as_json: AsJson = False,
) -> int:
    """Make the scores of one run of its shards, exactly. Names what is missing or contradictory."""
    from medcalib.engine.merge import merge as run_merge

    return _tell(run_merge(scores, out), as_json)


def pseudonymize(
    scores: Annotated[Path, typer.Argument(help="A folder that `score` or `merge` wrote.")],
    key: Annotated[Path, typer.Option(help="File with a secret of yours; the same one gives the same pseudonyms.")],
    out: Out,
    as_json: AsJson = False,
) -> int:
    """Write the scores again without names, to give away. `report` and `merge` read them.

    Keep the key: without it nobody can tell who is who, or guess it from a list of names.
    """
    from medcalib.engine.pseudonyms import Pseudonyms
    from medcalib.engine.pseudonyms import pseudonymize as run_pseudonymize

    return _tell(run_pseudonymize(scores, out, Pseudonyms.from_file(key)), as_json)


def _tell(scores: dict[str, Any], as_json: bool) -> int:
    from medcalib.report.text import score_text

    if as_json:
        echo_json(scores)
    else:
        typer.echo(score_text({**scores, "refused": together(scores["refused"])}))
    return _code(scores)


def _code(scores: dict[str, Any]) -> int:
    return Exit.SOME_REFUSED if scores["refused"] else Exit.OK
