"""The maps of one case, made slab by slab, so that a whole CT of many classes needs little memory."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from medcalib.data.geometry import voxel_sizes
from medcalib.data.labels import IGNORE
from medcalib.data.nifti import About
from medcalib.data.predictions import Compared, class_order_problem
from medcalib.errors import DataError
from medcalib.metrics.regions import BOUNDARY_MM, near_surface
from medcalib.report.maps.channels import Channel
from medcalib.report.maps.kinds import (
    BACKGROUND,
    BOUNDARY,
    CHANNEL_KINDS,
    FOREGROUND,
    KINDS,
    OF_COMPLETE_LABELS,
    OF_TOP_LABEL,
    WINDOWED,
    Kind,
)
from medcalib.report.maps.slab import CASE_VALUES, CHANNEL_VALUES, Slab
from medcalib.report.maps.window import WINDOW_MM, Window, WindowMeans

SLAB_VOXELS = 1 << 18  # at a time, as the scores are counted
Array = NDArray[Any]


@dataclass(frozen=True)
class Request:
    """What is mapped: the kinds of whole-case maps, the channels that get their own, the window, the boundary."""

    window: Window = field(default_factory=Window)
    kinds: tuple[str, ...] = tuple(KINDS)
    channels: tuple[Channel, ...] = ()
    boundary_mm: float = BOUNDARY_MM


@dataclass(frozen=True)
class _Map:
    """One map: the end of its file name, its kind, and the channel that it is of, if not of the whole case."""

    name: str
    kind: str
    of: Channel | None = None

    @property
    def definition(self) -> Kind:
        return (KINDS if self.of is None else CHANNEL_KINDS)[self.kind]

    def values(self, at: Slab) -> Array:
        return CASE_VALUES[self.kind](at) if self.of is None else CHANNEL_VALUES[self.kind](at, self.of)


class CaseMaps:
    """The maps of a pair, by the ends of their file names (`names`); `left_out` need annotations that it lacks.

    `class_names` names the values of the label, where they are not the channels.
    """

    def __init__(self, compared: Compared, request: Request, class_names: Sequence[str] | None = None) -> None:
        self._compared, self._request = compared, request
        self._class_names = tuple(class_names or _names(compared))
        self._spacing = voxel_sizes(compared.affine)
        self.size = request.window.size(self._spacing, compared.label.shape)
        wanted = {m.name: m for m in (*self._of_case(), *self._of_channels())}
        self.left_out = tuple(name for name, m in wanted.items() if not self._annotated(m))
        self._maps = {name: m for name, m in wanted.items() if name not in self.left_out}
        self.names = tuple(self._maps)

    @property
    def window_mm(self) -> list[float]:
        """The edges of the window in mm."""
        return [round(n * edge, 4) for n, edge in zip(self.size, self._spacing, strict=True)]

    def header(self, name: str) -> tuple[Any, About]:
        """Type and description of a map by its name."""
        found = self._maps[name]
        window = f"{'x'.join(map(str, self.size))} voxels" if found.kind == WINDOWED else ""
        channel = "" if found.of is None else found.of.name
        about = found.definition.about(classes=len(self._class_names), detail=window, channel=channel)
        return found.definition.dtype, about

    def parts(self) -> Iterator[tuple[str, Array]]:
        """Slabs (i, j, n) of the maps by name; those of each map come in order and cover the last axis.

        Raises `DataError`: bad_probabilities, class_order (at the end, when all voxels have been seen).
        """
        compared, classes = self._compared, len(self._class_names)
        pool = WindowMeans(self.size, compared.label.shape[-1])
        regions = self._regions() if "region" in self._maps else None
        confusion = np.zeros((classes, classes), np.int64)
        for part, values in compared.slabs(SLAB_VOXELS):
            at = Slab(compared, part, values)
            if compared.groups is None:
                confusion += at.confusion(classes)
            if regions is not None:
                yield "region", regions[..., part]
            for name, m in self._maps.items():
                if name != "region" and m.kind != WINDOWED:
                    yield name, m.values(at).astype(m.definition.dtype, copy=False)
            yield from self._pooled(pool, at)
        # channels in another order than the classes would look like a useless network
        problem = class_order_problem(confusion, self._class_names)
        if problem is not None:
            raise DataError("class_order", f"{compared.case.id}: {problem}")

    def _pooled(self, pool: WindowMeans, at: Slab) -> Iterator[tuple[str, Array]]:
        windowed = [m for m in self._maps.values() if m.kind == WINDOWED]
        if not windowed:
            return
        means = pool.add(np.stack([m.values(at).astype(np.float32) for m in windowed]), at.valid)
        if means is not None:
            yield from ((m.name, mean) for m, mean in zip(windowed, means, strict=True))

    def _of_case(self) -> Iterator[_Map]:
        exclusive, known = self._compared.groups is None, self._compared.posterior is not None
        for name in self._request.kinds:
            if (exclusive or name not in OF_TOP_LABEL) and (known or name != "true_gap"):
                yield _Map(name, name)

    def _of_channels(self) -> Iterator[_Map]:
        absent = {"error"} if self._compared.groups is None else set()
        absent |= {"true_gap"} if self._compared.posterior is None else set()
        for channel in self._request.channels:
            yield from (_Map(f"{channel.file}_{k}", k, channel) for k in CHANNEL_KINDS if k not in absent)

    def _annotated(self, wanted: _Map) -> bool:
        """Whether the case has the annotations that a map compares with; `labelled_classes` may leave some out."""
        labelled = self._compared.case.labelled_classes
        if labelled is None or wanted.kind not in OF_COMPLETE_LABELS:
            return True
        known = {k for k, name in enumerate(self._class_names) if name in labelled}
        complete = known >= set(range(1, len(self._class_names)))
        return complete or (wanted.of is not None and known >= set(wanted.of.members))

    def _regions(self) -> NDArray[np.uint8]:
        """The region of every voxel (i, j, k), by the definition that the scores use."""
        label = self._compared.label
        near = near_surface(torch.from_numpy(label), self._spacing, self._request.boundary_mm, IGNORE).numpy()
        regions = np.where(label > 0, np.uint8(FOREGROUND), np.uint8(BACKGROUND))
        regions[near] = BOUNDARY
        regions[label == IGNORE] = IGNORE
        return regions


def maps_of(
    compared: Compared, window_mm: float | None = None, *, request: Request | None = None
) -> Mapping[str, Array]:
    """The maps of one case by name, each (i, j, k) in memory; ignored voxels are 0 in error and gap.

    `request` takes the place of `window_mm`. Raises `DataError`, see `CaseMaps.parts`. `compared` is what `read_pair`
    opens.
    """
    maps = CaseMaps(compared, request or Request(Window.of(WINDOW_MM if window_mm is None else window_mm)))
    slabs: defaultdict[str, list[Array]] = defaultdict(list)
    for name, slab in maps.parts():
        slabs[name].append(slab)
    return {name: np.concatenate(slabs[name], -1) for name in maps.names}


def _names(compared: Compared) -> tuple[str, ...]:
    """Names of the label's values: the channels, unless these are regions."""
    if compared.groups is None:
        return compared.channel_names
    return tuple(map(str, range(1 + max(max(group) for group in compared.groups))))
