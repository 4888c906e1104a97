"""The commands `medcalib bench ...`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from medcalib.cli_support import AsJson, Data, Set, echo_json, guarded, load_config
from medcalib.errors import ConfigError, Exit

if TYPE_CHECKING:
    from medcalib.engine.bench import Bench
    from medcalib.engine.bench_peers import Shape

bench = typer.Typer(no_args_is_help=True, rich_markup_mode=None, help="Measure medcalib on this machine.")

# metric: head of the column, factor, digits
_COLUMNS: dict[str, tuple[str, float, int]] = {
    "time": ("ms", 1, 2),
    "time_ratio": ("x F.cross_entropy", 1, 2),
    "speedup": ("x faster than peer", 1, 1),
    "gradient_ratio": ("gradient / copy", 1, 1),
    "peak_memory": ("peak / logits", 1, 2),
    "unet_ratio": ("U-Net step", 1, 3),
    "loss_error": ("loss err 1e-6", 1e6, 3),
    "gradient_error": ("grad err 1e-6", 1e6, 3),
}
_CALL_COLUMNS: dict[str, tuple[str, float, int]] = {"call": ("us", 1, 0), "call_ratio": ("x F.cross_entropy", 1, 1)}
_NOTES = """\
ms: forward and backward, median of undisturbed samples, all contestants in turn; x faster than peer: nacl than MONAI's,
crac than plain crac; gradient / copy: backward alone against copying the logits, in memory that is there already;
peak / logits: memory beyond the inputs, the gradient (1.0) included; U-Net step: against one with F.cross_entropy;
err: against float64, relative to the loss and to the largest gradient; one call: of a hundred in a row.
n/a: does not apply, or was not measured."""


def _losses(
    quick: Annotated[bool, typer.Option("--quick", help="Shape A and few rounds: about a minute or two.")] = False,
    shapes: Annotated[
        str | None, typer.Option(help="Some of A to F, as in A,B; or your own, as in 2x4x96x96x96.")
    ] = None,
    device: Annotated[Literal["auto", "cpu", "cuda"], typer.Option()] = "auto",
    threads: Annotated[int, typer.Option(min=1, help="Threads of the CPU.")] = 2,
    compiled: Annotated[bool, typer.Option("--compile", help="Also torch.compile of the plain losses.")] = False,
    ledger: Annotated[Path | None, typer.Option(help="CSV file to append the numbers to.")] = None,
    as_json: AsJson = False,
) -> int:
    """The losses against cross-entropy: time, memory, accuracy. MONAI and plain torch are measured beside them."""
    import torch

    from medcalib.engine.bench import Settings, append, check_ledger, read_shapes, run
    from medcalib.engine.bench_peers import CPU_SHAPES, SHAPES

    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    usual = "A" if quick else ",".join(CPU_SHAPES if device == "cpu" else SHAPES)
    chosen = read_shapes(shapes or usual)
    if ledger is not None:
        check_ledger(ledger)
    found = run(Settings(chosen, device, threads, rounds=7 if quick else 21, compiled=compiled))
    if ledger is not None:
        append(ledger, found)
    if as_json:
        echo_json({"context": found.context, "rows": [row._asdict() for row in found.rows]})
    else:
        typer.echo(_text(found, chosen))
    return Exit.OK


def _train(
    config: Annotated[
        str | None, typer.Argument(help="A YAML config, or a shipped one's name; with --synthetic: flare22.")
    ] = None,
    data: Data = None,
    losses: Annotated[str, typer.Option(help="Losses to compare; ratios are against the first.")] = "ce,nacl,crac",
    steps: Annotated[int, typer.Option(min=1, help="Steps that are measured, after 2 that are not.")] = 20,
    synthetic: Annotated[
        str | None, typer.Option(help="Size of patches that are made up, as in 128x128x128; no dataset is read.")
    ] = None,
    classes: Annotated[int | None, typer.Option(min=2, max=255, help="Of --synthetic; 4 unless given.")] = None,
    batch: Annotated[int | None, typer.Option(min=1, help="Of --synthetic; 2 unless given.")] = None,
    channels: Annotated[int | None, typer.Option(min=1, help="Of the images of --synthetic; 1 unless given.")] = None,
    device: Annotated[str | None, typer.Option(help="In place of train.device.")] = None,
    set_: Set = None,
    as_json: AsJson = False,
) -> int:
    """What each phase of a training step takes. Data, network, loss, optimizer; voxels a second, memory, busy GPU."""
    from medcalib.engine.bench_synthetic import chosen
    from medcalib.engine.bench_train import bench_steps

    made = chosen(synthetic, classes=classes, batch=batch, channels=channels)
    if config is None and made is None:
        raise ConfigError("name a config, or the size of made-up patches with --synthetic 128x128x128")
    options = [*(made.overrides() if made else ()), *(set_ or ()), *([f"train.device={device}"] if device else ())]
    names = list(dict.fromkeys(losses.split(",")))
    configs = {name: load_config(config or "flare22", options, data, name) for name in names}
    found = bench_steps(configs, steps, made)
    if as_json:
        echo_json(found)
    else:
        typer.echo(_train_text(found))
    return Exit.OK


bench.command("losses")(guarded(_losses))
bench.command("train")(guarded(_train))


def _train_text(found: dict[str, Any]) -> str:
    from medcalib.report.text import number, table

    heads = ("data_ms", "forward_ms", "loss_ms", "backward_ms", "optimizer_ms", "step_ms")
    rows, runs = [], []
    for name, row in found["losses"].items():
        share, times = f"{row['loss_ms'] / row['step_ms']:.1%}", (number(row[head], 1) for head in heads)
        rows.append([name, *times, share, number(row["ratio"], 3), number(row["peak_mib"], 0)])
        speed = number(row["voxels_per_s"] / 1e6, 2)
        runs.append([name, number(row["run_ms"], 1), number(row["run_ratio"], 3), speed, number(row["gpu_percent"], 0)])
    facts = ", ".join(f"{key} {value}" for key, value in found.items() if key != "losses" and value is not None)
    names = [head.removesuffix("_ms") + " ms" for head in heads]
    first = next(iter(found["losses"]))
    phases = table(rows, ["", *names, "loss / step", f"step / {first}", "peak MiB"])
    in_a_row = table(runs, ["in a row", "ms", f"ms / {first}", "million voxels / s", "GPU busy %"])
    notes = (
        "medians; step: without data, whose wait a loader's workers can hide; in a row: without waits between phases"
    )
    return f"{facts}\n\n{phases}\n\n{in_a_row}\n\n{notes}"


def _text(found: Bench, shapes: dict[str, Shape]) -> str:
    """A table a shape, and one of the overhead of a call."""
    facts = found.context
    using = f"{facts['backend']} {facts['isa']}".strip()
    lines = [f"{facts['machine']}, {facts['threads']} threads, torch {facts['torch']}, backend {using}"]
    for name, shape in shapes.items():
        share = {row.metric: f"{row.value:.0%}" for row in found.rows if row.shape == name}
        lines += [
            "",
            f"{name} {shape}: {share['boundary']} boundary voxels; {share['undisturbed']} samples undisturbed",
        ]
        lines += [_table(found, name, _COLUMNS)]
    lines += ["", "one call, forward and backward of (1, 4, 8, 8, 8)", _table(found, "call", _CALL_COLUMNS)]
    return "\n".join([*lines, "", _NOTES])


def _table(found: Bench, shape: str, columns: dict[str, tuple[str, float, int]]) -> str:
    from medcalib.report.text import number, table

    values = {(row.contestant, row.metric): row.value for row in found.rows if row.shape == shape}
    names = list(dict.fromkeys(name for name, metric in values if metric in columns))
    rows = []
    for name in names:
        scaled = [(values.get((name, metric)), factor, digits) for metric, (_, factor, digits) in columns.items()]
        rows.append([name, *(number(None if v is None else factor * v, digits) for v, factor, digits in scaled)])
    return table(rows, ["", *(head for head, _, _ in columns.values())])
