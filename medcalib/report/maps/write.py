"""Writing the maps of every pair of a folder, each case whole or not at all."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

import medcalib
from medcalib.config.references import paired
from medcalib.config.schema import DataConfig
from medcalib.data.labels import IGNORE, LabelMap
from medcalib.data.nifti import volume_writer
from medcalib.data.predictions import Channels, Compared, Pair, channels_of, read_pair, without_folders
from medcalib.errors import ConfigError, DataError, DataRefusedError, Problem
from medcalib.files import same_place, write_json
from medcalib.metrics.regions import BOUNDARY_MM
from medcalib.report.maps.case import CaseMaps, Request
from medcalib.report.maps.channels import chosen_channels
from medcalib.report.maps.cohort import NEEDS, Cohort, check_one_grid
from medcalib.report.maps.files import INDEX, Taken, prepare
from medcalib.report.maps.kinds import CHANNEL_KINDS, KINDS, checked_kinds
from medcalib.report.maps.window import Window

Entry = dict[str, Any]


def write_maps(
    predictions: Path,
    labels: Path,
    out: Path,
    *,
    data: DataConfig | None = None,
    window_mm: float | None = None,
    window_voxels: int | Sequence[int] | None = None,
    maps: Sequence[str] | None = None,
    classes: Sequence[str] = (),
    cohort: bool = False,
    boundary_mm: float = BOUNDARY_MM,
    assume_logits: bool = False,
    assume_orientation: bool = False,
) -> dict[str, Any]:
    """Write `<case>_{confidence,error,gap,...}.nii.gz` for every pair and `maps.json`; returns the latter.

    `labels` is a dataset folder when `data` says how to read it, else a flat folder of `<case>.nii.gz`. The window of
    the gap has an edge of `window_mm` (9 when nothing is said), or odd numbers of `window_voxels`, one or one for each
    array axis. `maps`: names of `KINDS`; all when None. `classes`: classes, or unions of them that `data` names, that
    get maps of their own (`all`: every one but the background); independent regions all do when none is named.
    `cohort`: also means over patients; every case must lie on one grid. `boundary_mm`: of the map region.
    `assume_logits`, `assume_orientation`: see `read_pair`.

    What an earlier run wrote is removed first; a refused case has no maps. Raises `ConfigError` for options that make
    no sense, `DataRefusedError` when there is nothing to map, `DataError` (cohort_grid) for cases on several grids.
    `predictions` and `out` are folders.
    """
    request = Request(Window.of(window_mm, window_voxels), checked_kinds(maps), (), boundary_mm)
    if same_place(out, predictions) or same_place(out, labels):
        raise ConfigError(f"{out} is a folder that is read from; choose another one for the maps")
    pairs, refused, _ = paired(predictions, labels, data)
    if not pairs and not refused:
        raise DataRefusedError(
            [
                Problem(
                    str(predictions),
                    "no_prediction",
                    "no prediction <case>.nii.gz, .npz or .npy found; name the folder that `predict` wrote, or nnU-Net "
                    "with --save_probabilities",
                )
            ]
        )
    job = _Job(out, request, data, tuple(classes), Cohort() if cohort else None)
    job.check(pairs)
    prepare(out, [*(pair.case.id for pair in pairs), *(entry["case"] for entry in refused)])
    if cohort:
        pairs = sorted(pairs, key=lambda pair: pair.case.patient_id)  # a patient's cases in a row
    written: dict[str, Entry] = {}
    for pair in tqdm(pairs, "maps", leave=False, disable=not sys.stderr.isatty()):
        try:
            written[pair.case.id] = job.write(pair, assume_logits=assume_logits, assume_orientation=assume_orientation)
        except DataError as error:
            refused.append({"case": pair.case.id, "reason": error.reason, "message": str(error)})
    return job.finish(written, refused, (predictions, labels))


@dataclass(frozen=True)
class _Job:
    """What is done with each pair; `channel_files` collects the names of classes that have maps of their own."""

    out: Path
    request: Request
    data: DataConfig | None
    classes: tuple[str, ...]
    cohort: Cohort | None
    taken: Taken = field(default_factory=Taken)
    channel_files: dict[str, str] = field(default_factory=dict)

    def check(self, pairs: Sequence[Pair]) -> None:
        """Refuse now what makes no sense for the first pair that can be described; all describe the same classes."""
        for pair in pairs:
            try:
                channels = channels_of(pair.prediction, self._label_map())
            except DataError:
                continue  # refused by name later
            self._for(channels)
            if self.cohort is not None and channels.groups is not None:
                raise ConfigError(
                    f"cohort maps need probabilities of exclusive classes; {pair.case.id} holds independent regions "
                    f"({', '.join(channels.names)})"
                )
            break
        if self.cohort is not None:
            check_one_grid(pairs)

    def write(self, pair: Pair, **assumed: bool) -> Entry:
        """Write the maps of a pair: all of them, or none when it is refused."""
        channels = channels_of(pair.prediction, self._label_map())
        try:
            request = self._for(channels)
        except ConfigError as error:  # what `check` looked at had other channels
            raise DataError("unknown_class", f"{pair.case.id}: {error}") from error
        with read_pair(pair, channels.label_map, **assumed) as compared:
            maps = CaseMaps(compared, request, channels.label_map.class_names)
            files = self.taken.claim(pair.case.id, filter(self._asked, maps.names))
            kept = self._write(compared, maps, files)
            if self.cohort is not None and len(kept) == len(NEEDS):
                self.cohort.add(pair, compared.affine, kept, compared.label != IGNORE)
            return {
                "window_voxels": list(maps.size),
                "window_mm": maps.window_mm,
                "files": files,
                "left_out": list(filter(self._asked, maps.left_out)),
                "warnings": list(compared.warnings),
            }

    def _write(self, compared: Compared, maps: CaseMaps, files: Mapping[str, str]) -> dict[str, NDArray[Any]]:
        """Write slab by slab; the files appear together at the end. Returns what the cohort needs."""
        shape, done = compared.label.shape, dict.fromkeys(NEEDS, 0)
        needed = NEEDS if self.cohort is not None else ()
        kept = {name: np.empty(shape, KINDS[name].dtype) for name in needed if name in maps.names}
        with ExitStack() as opened:
            sinks = {}
            for name, file in files.items():
                dtype, about = maps.header(name)
                writer = volume_writer(self.out / file, shape, dtype, compared.affine, about)
                sinks[name] = opened.enter_context(writer)
            for name, slab in maps.parts():
                if name in sinks:
                    sinks[name](slab)
                if name in kept:
                    start, done[name] = done[name], done[name] + slab.shape[-1]
                    kept[name][..., start : done[name]] = slab
        return kept

    def finish(
        self, written: Mapping[str, Entry], refused: Sequence[Mapping[str, str]], private: Sequence[Path]
    ) -> Entry:
        """Write the cohort's maps and the index, which names no folder of `private`; returns the latter."""
        done = sorted(written)
        names = {name for entry in written.values() for name in entry["files"]}
        texts = {kind: definition.text for kind, definition in CHANNEL_KINDS.items()}
        index = {
            "software": f"medcalib {medcalib.__version__}",
            "cases": done,
            "refused": [{**entry, "message": without_folders(entry["message"], *private)} for entry in refused],
            "window_mm": self.request.window.mm,
            "window_voxels": self.request.window.voxels,
            "boundary_mm": self.request.boundary_mm,
            "maps": {name: kind.text for name, kind in KINDS.items() if name in names},
            "classes": dict(sorted(self.channel_files.items())),
            "class_maps": texts if self.channel_files else {},
            "written": {case: _public(written[case], private) for case in done},
            "cohort": None if self.cohort is None else self.cohort.write(self.out, done),
        }
        write_json(self.out / INDEX, index)
        return index

    def _for(self, channels: Channels) -> Request:
        """The request for a prediction of these channels, with what the cohort needs beside what was asked for."""
        composites = {} if self.data is None else self.data.composite_indices
        chosen = chosen_channels(channels, composites, self.classes)
        self.channel_files.update({channel.name: channel.file for channel in chosen})
        kinds = {*self.request.kinds, *(NEEDS if self.cohort is not None else ())}
        return replace(self.request, channels=chosen, kinds=tuple(kind for kind in KINDS if kind in kinds))

    def _asked(self, name: str) -> bool:
        return name not in KINDS or name in self.request.kinds

    def _label_map(self) -> LabelMap | None:
        return None if self.data is None else self.data.label_map


def _public(entry: Entry, private: Sequence[Path]) -> Entry:
    return {**entry, "warnings": [without_folders(text, *private) for text in entry["warnings"]]}
