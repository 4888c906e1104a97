"""Line charts of a run as plain numbers for a template: no drawing library, since they are drawn at every epoch."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

WIDTH, HEIGHT = 520, 220
LEFT, RIGHT, TOP, BOTTOM = 58, 12, 10, 26
BUCKETS = 120  # along the axis; of each the lowest and the highest value are drawn
_LOG_FROM = 50.0  # a logarithmic axis where values span more than this factor
REGIONS = ("boundary", "interior")

Array = NDArray[np.float64]
LOSS, SKIPPED = "Loss and its parts", "Skipped steps an epoch"
DICE, BY_CLASS = "Validation: mean foreground Dice", "Validation: Dice of each class"
SINGLE = {  # title -> name and key of the only series
    DICE: ("Dice", "val_dice"),
    "Validation: ECE of the predicted foreground": ("ECE", "val_ece_pred_foreground"),
    "Learning rate": ("lr", "lr"),
    "Seconds of training an epoch": ("seconds", "seconds"),
    SKIPPED: ("skipped", "skipped_steps"),
}


class Series(NamedTuple):
    """Values at epochs, which ascend."""

    epochs: list[int]
    values: list[float]


class Tick(NamedTuple):
    """A place on an axis, in the units of the picture, and its text."""

    at: float
    text: str


@dataclass(frozen=True)
class Line:
    """One series: its points as SVG wants them, its end, and its last value."""

    name: str
    points: str
    end: tuple[float, float]
    last: str


@dataclass(frozen=True)
class Chart:
    """What the template draws. `log`: the vertical axis is logarithmic."""

    title: str
    lines: list[Line]
    x: list[Tick]
    y: list[Tick]
    log: bool


class Columns:
    """The numbers of metrics.jsonl by chart and series, added a line at a time."""

    def __init__(self) -> None:
        self.charts: dict[str, dict[str, Series]] = {title: {} for title in (LOSS, DICE, BY_CLASS, *SINGLE)}
        self.multipliers: dict[str, dict[str, Series]] = {}

    def add(self, line: Mapping[str, Any]) -> None:
        """Take a line; `null` is no number and leaves a gap."""
        epoch = line["epoch"]
        parts = line.get("parts", {})
        self._put(self.charts[LOSS], "loss", epoch, line.get("loss"))
        for name, value in parts.items() if len(parts) > 1 else ():  # one part alone is the loss itself
            self._put(self.charts[LOSS], name, epoch, value)
        for title, (name, key) in SINGLE.items():
            self._put(self.charts[title], name, epoch, line.get(key))
        by_class = line.get("val_dice_by_class", {})
        for name, value in by_class.items() if len(by_class) > 1 else ():  # one class alone is the mean itself
            self._put(self.charts[BY_CLASS], name, epoch, value)
        for term, values in line.get("multipliers", {}).items():
            for key in ("lam", "rho"):
                for name, value in zip(values["names"], values.get(key, ()), strict=False):
                    region, of = _place(name)
                    self._put(self.multipliers.setdefault(f"{term}: {key}{region}", {}), of, epoch, value)

    def _put(self, chart: dict[str, Series], name: str, epoch: int, value: float | None) -> None:
        if value is not None:
            series = chart.setdefault(name, Series([], []))
            series.epochs.append(epoch)
            series.values.append(value)


def charts(columns: Columns, epochs: int) -> list[Chart]:
    """The charts of a run of so many epochs: losses and scores, multipliers, cost. What has no number is left out."""
    titles = list(columns.charts)
    learned = sorted(columns.multipliers, key=lambda title: ": rho" in title)
    every = columns.charts | columns.multipliers
    return [
        chart(title, every[title], epochs)
        for title in (*titles[:4], *learned, *titles[4:])
        if every[title] and not (title == SKIPPED and not any(every[title]["skipped"].values))
    ]


def chart(title: str, series: Mapping[str, Series], epochs: int) -> Chart:
    """At least one series in one picture."""
    low, high = min(min(s.values) for s in series.values()), max(max(s.values) for s in series.values())
    log = low > 0 and high / low > _LOG_FROM
    ticks = _log_ticks(low, high) if log else _ticks(low, high)
    scale: Any = np.log if log else np.asarray
    bottom, top = scale([min(low, ticks[0]), max(high, ticks[-1])]).tolist()
    across, up = (WIDTH - LEFT - RIGHT) / max(epochs - 1, 1), (HEIGHT - TOP - BOTTOM) / (top - bottom)

    def x(places: Any) -> Any:
        return (LEFT + (np.asarray(places) - 1) * across).round(1)

    def y(values: Any) -> Any:
        return (HEIGHT - BOTTOM - (scale(values) - bottom) * up).round(1)

    drawn = []
    for name, one in series.items():
        kept_epochs, kept_values = thinned(one, epochs)
        pairs = np.stack([x(kept_epochs), y(kept_values)], 1)
        text = ("%g,%g " * len(pairs)) % tuple(pairs.ravel().tolist())
        drawn.append(Line(name, text.strip(), tuple(pairs[-1].tolist()), number(one.values[-1])))
    along = [Tick(float(x(epoch)), str(epoch)) for epoch in _epoch_ticks(epochs)]
    return Chart(title, drawn, along, [Tick(float(y(tick)), number(tick)) for tick in ticks], log)


def thinned(series: Series, epochs: int) -> tuple[Array, Array]:
    """Epochs and values of at most two points of each bucket: its lowest and highest, so that no spike is lost; and
    the last point."""
    at, values = np.asarray(series.epochs, float), np.asarray(series.values, float)
    size = math.ceil(epochs / BUCKETS)
    if size <= 2:
        return at, values
    bucket = at // size
    order = np.lexsort((values, bucket))
    first = np.flatnonzero(np.diff(bucket[order], prepend=-1.0))
    last = np.append(first[1:], len(order)) - 1
    kept = np.unique(np.concatenate([order[first], order[last], [len(at) - 1]]))
    return at[kept], values[kept]


def number(value: float) -> str:
    """Four digits, without a long tail of zeros."""
    return f"{value:.4g}".replace("e-0", "e-").replace("e+0", "e+")


def _place(name: str) -> tuple[str, str]:
    """`boundary/RV` is the class RV in the chart of boundaries."""
    region, slash, of = name.partition("/")
    return (f", {region}", of) if slash and region in REGIONS else ("", name)


def _epoch_ticks(epochs: int) -> list[int]:
    """Epoch 1 and round ones; not the first round one where its text would touch that of epoch 1."""
    places = sorted({1, *(round(tick) for tick in _ticks(1, epochs) if 1 <= round(tick) <= epochs)})
    if len(places) > 2 and places[1] - 1 < (places[-1] - 1) / 12:
        del places[1]
    return places


def _ticks(low: float, high: float, wanted: int = 5) -> list[float]:
    """Round numbers around a range."""
    if high <= low:
        room = abs(low) / 2 or 1.0
        low, high = low - room if low != 0 else 0.0, high + room
    raw = (high - low) / wanted
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(factor * power for factor in (1, 2, 5, 10) if factor * power >= raw)
    first, last = math.floor(low / step), math.ceil(high / step)
    return [round(place * step, 12) for place in range(first, last + 1)]


def _log_ticks(low: float, high: float) -> list[float]:
    """Powers of ten around a range, about six at most."""
    first, last = math.floor(math.log10(low)), math.ceil(math.log10(high))
    step = math.ceil((last - first) / 6)
    return [10.0**power for power in range(first, last + step, step)]
