"""`medcalib bench losses`: time, memory and accuracy of the fused losses beside their peers, on this machine."""

from __future__ import annotations

import csv
import logging
import math
import platform
import re
import statistics
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal, NamedTuple

import torch
from torch import Tensor

import medcalib
from medcalib.engine.bench_measure import Work, gradient_seconds, interleaved, loss_works, peak_memory, typical
from medcalib.engine.bench_peers import (
    BASELINE,
    COPY,
    CPU_SHAPES,
    OURS,
    SHAPES,
    Contestant,
    Loss,
    Shape,
    batch,
    contestants,
)
from medcalib.errors import ConfigError
from medcalib.networks import unet
from medcalib.ops import _native, backend, heterogeneous

log = logging.getLogger(__name__)

CALL: Shape = (1, 4, 8, 8, 8)  # so small that what is left of the time is overhead
CALLS = 100  # timed together
CONTEXT = ("date", "version", "machine", "threads", "torch", "backend", "isa")
_CHANNELS = (16, 32, 64, 128, 256)
_IN_UNET = (BASELINE, "medcalib nacl", "medcalib crac")
_ACCURACY_EDGE = 33  # odd, so that there are tails


class Row(NamedTuple):
    """One number, as in the ledger."""

    shape: str
    contestant: str
    metric: str
    value: float
    unit: str


class Bench(NamedTuple):
    """What was measured, and on what: `CONTEXT` by name."""

    context: dict[str, str]
    rows: list[Row]


@dataclass(frozen=True)
class Settings:
    """What to measure. `compiled` adds torch.compile of the plain losses; `memory` needs a process a loss."""

    shapes: Mapping[str, Shape] = field(default_factory=lambda: {name: SHAPES[name] for name in CPU_SHAPES})
    device: Literal["cpu", "cuda"] = "cpu"
    threads: int = 2
    rounds: int = 21
    compiled: bool = False
    memory: bool = True


def read_shapes(text: str) -> dict[str, Shape]:
    """ "A,B" or sizes of one's own such as "2x4x96x96x96" (images, classes, depth, height, width), by name."""
    found: dict[str, Shape] = {}
    for name in text.split(","):
        own = re.fullmatch(r"\d+(x\d+){4}", name)
        shape = tuple(map(int, name.split("x"))) if own else SHAPES.get(name)
        if shape is None or min(shape) < 1 or shape[1] < 2:
            raise ConfigError(f"unknown shape {name!r}: name some of {', '.join(SHAPES)}, or sizes as in 2x4x96x96x96")
        found[name] = shape
    return found


def run(settings: Settings) -> Bench:
    """Measure; minutes, as times are medians over many rounds."""
    if settings.device == "cuda" and not torch.cuda.is_available():
        raise ConfigError("no CUDA device is at hand; use --device cpu")
    facts, threads = context(settings), torch.get_num_threads()
    torch.set_num_threads(settings.threads)
    try:
        rows = [row for name, shape in settings.shapes.items() for row in _of_shape(name, shape, settings)]
        log.info("one call")
        return Bench(facts, rows + _calls(settings))
    finally:
        torch.set_num_threads(threads)


def context(settings: Settings) -> dict[str, str]:
    """Where and with what the numbers were taken."""
    active = active_backend(settings.device)
    values = (
        datetime.now(UTC).isoformat(timespec="seconds"),
        medcalib.__version__,
        torch.cuda.get_device_name() if settings.device == "cuda" else _processor(),
        str(settings.threads),
        torch.__version__,
        active,
        _native.LIB.medcalib_isa().decode() if active == "native" and _native.LIB is not None else "",
    )
    return dict(zip(CONTEXT, values, strict=True))


def active_backend(device: str) -> str:
    """`native`, `triton` or `reference`: what the fused losses run on."""
    try:
        return backend.active(device)
    except (RuntimeError, ValueError) as error:  # MEDCALIB_BACKEND names none, or one that cannot run
        raise ConfigError(str(error)) from error


def check_ledger(path: Path) -> None:
    """Refuse a file that is something else, or cannot be written: better before minutes of measuring."""
    with path.open("a+", encoding="utf-8", newline="") as file:
        file.seek(0)
        header = next(csv.reader(file), None)
    if header not in (None, [*CONTEXT, *Row._fields]):
        raise ConfigError(
            f"{path} is no ledger of `medcalib bench`: its columns are {', '.join(header or ())}; choose another file"
        )


def append(path: Path, bench: Bench) -> None:
    """Add the rows to a ledger, a CSV file; a new one gets a header."""
    check_ledger(path)
    with path.open("a", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        if not path.stat().st_size:
            writer.writerow([*CONTEXT, *Row._fields])
        for row in bench.rows:
            values = row._replace(value=float(f"{row.value:.6g}"))
            writer.writerow([*bench.context.values(), *values])


def _of_shape(name: str, shape: Shape, settings: Settings) -> list[Row]:
    """All the rows of one shape."""
    log.info("shape %s %s: times", name, shape)
    logits, labels = batch(shape, settings.device)
    known = contestants(compiled=settings.compiled)
    boundary = heterogeneous(labels, padding="replicate").double().mean().item()
    samples = interleaved(loss_works(known, logits, labels), settings.rounds, settings.device)
    clean = statistics.mean(sample.clean for taken in samples.values() for sample in taken)
    rows = [
        Row(name, "labels", "boundary", boundary, "of voxels"),
        Row(name, "all", "undisturbed", clean, "of samples"),
    ]
    seconds = {contestant: typical(taken) for contestant, taken in samples.items()}
    known = {contestant: known[contestant] for contestant in seconds}
    rows += _time_rows(name, known, seconds)
    compared = [contestant for contestant in (COPY, BASELINE, *OURS) if contestant in known]
    gradient = gradient_seconds(compared, shape, settings.device, settings.threads, settings.rounds)
    rows += [Row(name, c, "gradient_ratio", s / gradient[COPY], "x copy") for c, s in gradient.items() if c != COPY]
    rows += _unet_rows(name, shape, labels, settings)
    del logits, labels
    log.info("shape %s: accuracy and memory", name)
    for contestant in list(known)[1:]:
        rows += _accuracy_rows(name, contestant, known[contestant], shape, settings.device)
        if settings.memory:
            peak = peak_memory(contestant, shape, settings.device, settings.threads)
            rows += [] if peak is None else [Row(name, contestant, "peak_memory", peak, "x logits")]
    return rows


def _times(works: Mapping[str, Work], rounds: int, device: str) -> dict[str, float]:
    return {name: typical(samples) for name, samples in interleaved(works, rounds, device).items()}


def _time_rows(shape: str, known: Mapping[str, Contestant], seconds: Mapping[str, float]) -> list[Row]:
    """Time, its ratio to plain cross-entropy, and how many times faster than the rival."""
    rows = [Row(shape, name, "time", 1000 * s, "ms") for name, s in seconds.items()]
    rows += [Row(shape, name, "time_ratio", s / seconds[BASELINE], f"x {BASELINE}") for name, s in seconds.items()]
    for name, contestant in known.items():
        rival = contestant.rival
        if rival is not None and rival in seconds:
            rows.append(Row(shape, name, "speedup", seconds[rival] / seconds[name], f"x faster than {rival}"))
    return rows


def _calls(settings: Settings) -> list[Row]:
    """Forward and backward of a batch of 512 voxels, many in a row: one alone would be timed with cold caches."""
    known = contestants()
    works = loss_works({name: known[name] for name in (BASELINE, *OURS)}, *batch(CALL, settings.device))
    seconds = _times({name: _repeated(work) for name, work in works.items()}, settings.rounds, settings.device)
    rows = [Row("call", name, "call", 1e6 * s / CALLS, "us") for name, s in seconds.items()]
    return rows + [
        Row("call", name, "call_ratio", s / seconds[BASELINE], f"x {BASELINE}") for name, s in seconds.items()
    ]


def _repeated(work: Work) -> Work:
    def works(mark: Callable[[], None]) -> object:
        mark()
        for _ in range(CALLS):
            work(_ignore)
        return None

    return works


def _ignore() -> None:
    """The moment between forward and backward, where nobody asks for it."""


def _unet_rows(name: str, shape: Shape, labels: Tensor, settings: Settings) -> list[Row]:
    """A training step of a MONAI U-Net; none where the patch cannot be halved four times, or would become one voxel."""
    divisor = 2 ** (len(_CHANNELS) - 1)
    if any(n % divisor for n in shape[2:]) or math.prod(n // divisor for n in shape[2:]) < 2:
        return []
    log.info("shape %s: U-Net steps", name)
    known, classes = contestants(), shape[1]
    losses = {loss: known[loss].ready(classes, settings.device) for loss in _IN_UNET}
    works = _unet_works(losses, torch.randn(shape[0], 1, *shape[2:], device=settings.device), labels, classes)
    seconds = _times(works, settings.rounds, settings.device)
    rows = [Row(name, loss, "unet_step", s, "s") for loss, s in seconds.items()]
    return rows + [Row(name, loss, "unet_ratio", s / seconds[BASELINE], f"x {BASELINE}") for loss, s in seconds.items()]


def _unet_works(losses: Mapping[str, Loss], images: Tensor, labels: Tensor, classes: int) -> dict[str, Work]:
    network = unet(1, classes, channels=_CHANNELS, strides=(2,) * (len(_CHANNELS) - 1), num_res_units=2)
    network = network.to(images.device)
    optimizer = torch.optim.SGD(network.parameters(), lr=1e-3)

    def step(loss: Loss) -> Work:
        def work(mark: Callable[[], None]) -> object:
            optimizer.zero_grad()
            value = loss(network(images), labels)
            mark()
            value.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            return value

        return work

    return {name: step(loss) for name, loss in losses.items()}


def _accuracy_rows(name: str, contestant: str, known: Contestant, shape: Shape, device: str) -> list[Row]:
    """Errors against the plain loss in float64, on a part of the shape."""
    if known.oracle is None:
        return []
    small = (1, shape[1], *(min(n, _ACCURACY_EDGE) for n in shape[2:]))
    logits, labels = batch(small)
    exact, exact_gradient = _graded(known.oracle, logits.detach().double(), labels)
    loss = known.ready(shape[1], device)
    value, gradient = _graded(loss, logits.detach().to(device), labels.to(device))
    loss_error = ((value - exact) / exact).abs().item()
    gradient_error = ((gradient - exact_gradient).abs().max() / exact_gradient.abs().max()).item()
    return [
        Row(name, contestant, "loss_error", loss_error, "relative"),
        Row(name, contestant, "gradient_error", gradient_error, "of max |gradient|"),
    ]


def _graded(loss: Loss, logits: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Loss and gradient, in float64 on the CPU."""
    value = loss(logits.requires_grad_(), labels)
    (gradient,) = torch.autograd.grad(value, logits)
    return value.detach().double().cpu(), gradient.double().cpu()


def _processor() -> str:
    """The model of the CPU, as far as the system tells."""
    path = Path("/proc/cpuinfo")
    lines = path.read_text(encoding="utf-8").splitlines() if path.is_file() else []
    models = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return models[0] if models else platform.processor() or platform.machine()
