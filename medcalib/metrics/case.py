"""The scores of one case over its regions: saved as integers, merged exactly, read without running anything."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from medcalib.errors import DataError, in_words
from medcalib.files import atomic
from medcalib.metrics.calibration import CalibrationCounts
from medcalib.metrics.overlap import OverlapCounts
from medcalib.metrics.sums import ScoreSums
from medcalib.metrics.volume import VolumeCounts

FORMAT = 2
MAX_BYTES = 1 << 28  # unpacked; 255 classes with 50 composites in ten regions take 65 MB
Protocols = Mapping[str, Mapping[str, float | None]]


@dataclass(frozen=True)
class RegionScores:
    """One region: its `calibration` counts, and the `sums` of proper scores."""

    calibration: CalibrationCounts
    sums: ScoreSums

    def __add__(self, other: RegionScores) -> RegionScores:
        return RegionScores(self.calibration + other.calibration, self.sums + other.sums)


@dataclass(frozen=True)
class CaseScores:
    """Everything that later scores, groupings and intervals need of one case.

    `channels` names classes, then composites. `labelled` says of each channel whether it was annotated in this
    case (partial labels). Overlap, confusion (C, C; reference x prediction, 0 where channels are independent) and
    volumes are counted over all valid voxels. `hd95_mm` and `surface_dice` hold a
    value per channel (NaN: undefined, empty: not computed). `binary`: the channels are independent (a region model);
    then channel 0, the background, is not predicted and holds no count, and there is no top label.

    `settings` are the widths in mm that went in, `masks` the names of the regions that are the user's masks,
    `protocols` the numbers of published protocols, `warnings` what reading the case brought up, `inputs` what
    identifies its files, for callers that look whether a case is done. `case_id` and `patient_id` name the case and
    whom it is of; `num_classes` counts the background and no composites; `overlap` holds tp, fp and fn of each channel.
    """

    case_id: str
    patient_id: str
    channels: tuple[str, ...]
    num_classes: int
    spacing_mm: tuple[float, ...]
    overlap: OverlapCounts
    confusion: Tensor
    volumes: VolumeCounts
    regions: Mapping[str, RegionScores]
    hd95_mm: tuple[float, ...] = ()
    surface_dice: tuple[float, ...] = ()
    labelled: tuple[bool, ...] = ()
    binary: bool = False
    settings: Mapping[str, float] = field(default_factory=dict)
    masks: tuple[str, ...] = ()
    protocols: Protocols = field(default_factory=dict)
    warnings: tuple[str, ...] = ()
    inputs: Mapping[str, str] = field(default_factory=dict)

    def save(self, path: Path) -> None:
        """Write integers and a JSON description into a compressed `.npz` at `path`, atomically."""
        meta = {name: getattr(self, name) for name in _JSON}
        meta |= {"format": FORMAT, "regions": list(self.regions)}
        arrays = {"meta": np.frombuffer(json.dumps(meta, allow_nan=False).encode(), np.uint8)}
        arrays["overlap"] = np.stack([self.overlap.tp, self.overlap.fp, self.overlap.fn])
        arrays["confusion"] = self.confusion.numpy()
        arrays |= {name: np.array(getattr(self, name), np.float64) for name in _DISTANCES}
        arrays |= {f"volumes/{part.name}": getattr(self.volumes, part.name).numpy() for part in fields(VolumeCounts)}
        for name, region in self.regions.items():
            arrays |= _region_arrays(name, region)
        with atomic(path) as temporary, temporary.open("wb") as stream:
            np.savez_compressed(stream, **arrays)  # type: ignore[arg-type] # its stub reads names as options

    @classmethod
    def load(cls, path: Path) -> CaseScores:
        """Read what `save` wrote to `path`; nothing in the file is executed. `DataError` when it is damaged."""
        try:
            with zipfile.ZipFile(path) as packed:
                if sum(member.file_size for member in packed.infolist()) > MAX_BYTES:
                    raise ValueError(f"it unpacks to more than {MAX_BYTES:,} bytes")
            with np.load(path, allow_pickle=False) as stored:
                return cls._from_arrays({name: stored[name] for name in stored.files})
        except Exception as error:  # damage shows in what zlib, zipfile, numpy and json raise: too many to list
            raise DataError(
                "broken_scores", f"{path} is no readable case score ({in_words(error)}); score again"
            ) from error

    @classmethod
    def _from_arrays(cls, arrays: Mapping[str, np.ndarray]) -> CaseScores:
        meta = json.loads(arrays["meta"].tobytes())
        if meta["format"] != FORMAT:
            raise ValueError(f"format {meta['format']}, this version reads {FORMAT}")
        tp, fp, fn = (torch.from_numpy(row) for row in arrays["overlap"])
        volumes = {part.name: torch.from_numpy(arrays[f"volumes/{part.name}"]) for part in fields(VolumeCounts)}
        plain: dict[str, Any] = {n: tuple(meta[n]) if isinstance(meta[n], list) else meta[n] for n in _JSON}
        plain |= {name: tuple(arrays[name].tolist()) for name in _DISTANCES}
        regions = {name: _region_from(name, arrays) for name in meta["regions"]}
        return cls(
            overlap=OverlapCounts(tp, fp, fn),
            confusion=torch.from_numpy(arrays["confusion"]),
            volumes=VolumeCounts(**volumes),
            regions=regions,
            **plain,
        )


_DISTANCES = ("hd95_mm", "surface_dice")
_TABLES = ("overlap", "confusion", "volumes", "regions")
_JSON = tuple(part.name for part in fields(CaseScores) if part.name not in (*_DISTANCES, *_TABLES))


def _region_arrays(name: str, region: RegionScores) -> dict[str, np.ndarray]:
    counts, sums = region.calibration, region.sums
    arrays = {f"{name}/{key}": value.numpy() for key, value in vars(counts).items() if value is not None}
    arrays[f"{name}/sums"] = sums.limbs.numpy()
    arrays[f"{name}/scalars"] = np.array([sums.voxels, sums.zero_probability, sums.has_posterior], np.int64)
    return arrays


def _region_from(name: str, arrays: Mapping[str, np.ndarray]) -> RegionScores:
    prefix = f"{name}/"
    tables: dict[str, Any] = {
        key.removeprefix(prefix): torch.from_numpy(a) for key, a in arrays.items() if key.startswith(prefix)
    }
    limbs, scalars = tables.pop("sums"), tables.pop("scalars").tolist()
    sums = ScoreSums(scalars[0], limbs, scalars[1], bool(scalars[2]))
    return RegionScores(CalibrationCounts(**tables), sums)
