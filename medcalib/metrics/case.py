"""The scores of one case over its regions: made in one pass, saved as integers, merged exactly."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from medcalib.errors import DataError
from medcalib.files import atomic
from medcalib.metrics.calibration import CalibrationCounts
from medcalib.metrics.checks import checked_probs, flat_voxels
from medcalib.metrics.overlap import OverlapCounts
from medcalib.metrics.sums import ScoreSums
from medcalib.metrics.surface import hd95_mm
from medcalib.ops.scoring import ScoreTables, score_voxels

FORMAT = 2
MAX_BYTES = 1 << 28  # unpacked; 255 classes with 50 composites in three regions take 28 MB
# The region is part of a score's name: the same prediction can score 90 times better on another region.
REGIONS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "all": lambda labels, predicted: torch.ones_like(labels, dtype=torch.bool),  # noqa: ARG005
    "foreground": lambda labels, predicted: (labels > 0) | (predicted > 0),
    "gt_foreground": lambda labels, predicted: labels > 0,  # noqa: ARG005
    "pred_foreground": lambda labels, predicted: predicted > 0,  # noqa: ARG005
}
REGION_TEXT = {
    "all": "every valid voxel; easy background dominates",
    "foreground": "voxels that are foreground in the reference or in the prediction; it holds every missed voxel but "
    "no correct background, so even a perfectly calibrated network looks overconfident here",
    "gt_foreground": "voxels that are foreground in the reference (the papers' choice); hides false positives",
    "pred_foreground": "voxels predicted as foreground; the choice does not depend on the reference, so a perfectly "
    "calibrated network scores 0 here; hides missed voxels",
}


@dataclass(frozen=True)
class RegionScores:
    """Calibration counts and proper-score sums of one region."""

    calibration: CalibrationCounts
    sums: ScoreSums

    def __add__(self, other: RegionScores) -> RegionScores:
        return RegionScores(self.calibration + other.calibration, self.sums + other.sums)


@dataclass(frozen=True)
class CaseScores:
    """Everything that later scores, groupings and intervals need of one case.

    `channels` names classes, then composites. `labelled` says of each channel whether it was annotated in this
    case (partial labels). Overlap is counted over all valid voxels. `hd95_mm` holds a value per channel (NaN:
    undefined, empty: not computed). `inputs` holds the SHA-256 of the files and settings that it was made from.
    """

    case_id: str
    patient_id: str
    channels: tuple[str, ...]
    num_classes: int
    spacing_mm: tuple[float, float, float]
    overlap: OverlapCounts
    regions: Mapping[str, RegionScores]
    hd95_mm: tuple[float, ...] = ()
    labelled: tuple[bool, ...] = field(default=())
    inputs: Mapping[str, str] = field(default_factory=dict)

    def save(self, path: Path) -> None:
        """Write integers and a JSON description into a compressed `.npz`, atomically."""
        meta = {
            "format": FORMAT,
            "case_id": self.case_id,
            "patient_id": self.patient_id,
            "channels": self.channels,
            "num_classes": self.num_classes,
            "spacing_mm": self.spacing_mm,
            "regions": list(self.regions),
            "labelled": self.labelled,
            "inputs": dict(self.inputs),
        }
        arrays = {"meta": np.frombuffer(json.dumps(meta).encode(), np.uint8)}
        arrays["overlap"] = np.stack([self.overlap.tp, self.overlap.fp, self.overlap.fn])
        arrays["hd95_mm"] = np.array(self.hd95_mm, np.float64)
        for name, region in self.regions.items():
            arrays |= _region_arrays(name, region)
        with atomic(path) as temporary, temporary.open("wb") as stream:
            np.savez_compressed(stream, **arrays)  # type: ignore[arg-type] # its stub reads names as options

    @classmethod
    def load(cls, path: Path) -> CaseScores:
        """Read what `save` wrote; nothing in the file is executed. `DataError` when it is damaged."""
        try:
            with zipfile.ZipFile(path) as packed:
                if sum(member.file_size for member in packed.infolist()) > MAX_BYTES:
                    raise ValueError(f"it unpacks to more than {MAX_BYTES:,} bytes")
            with np.load(path, allow_pickle=False) as stored:
                return cls._from_arrays({name: stored[name] for name in stored.files})
        except (OSError, ValueError, TypeError, KeyError, MemoryError, zipfile.BadZipFile, EOFError) as error:
            raise DataError("broken_scores", f"{path} is no readable case score: {error}") from error

    @classmethod
    def _from_arrays(cls, arrays: Mapping[str, np.ndarray]) -> CaseScores:
        meta = json.loads(arrays["meta"].tobytes())
        if meta["format"] != FORMAT:
            raise ValueError(f"format {meta['format']}, this version reads {FORMAT}; score again")
        tp, fp, fn = (torch.from_numpy(row) for row in arrays["overlap"])
        return cls(
            meta["case_id"],
            meta["patient_id"],
            tuple(meta["channels"]),
            meta["num_classes"],
            tuple(meta["spacing_mm"]),
            OverlapCounts(tp, fp, fn),
            {name: _region_from(name, arrays) for name in meta["regions"]},
            tuple(arrays["hd95_mm"].tolist()),
            tuple(meta["labelled"]),
            dict(meta["inputs"]),
        )


def score_case(
    probs: Tensor,
    labels: Tensor,
    *,
    case_id: str,
    class_names: Sequence[str],
    patient_id: str | None = None,
    spacing_mm: tuple[float, float, float] = (1.0, 1.0, 1.0),
    regions: Sequence[str] = tuple(REGIONS),
    composites: Mapping[str, Sequence[int]] | None = None,
    posterior: Tensor | None = None,
    ignore_index: int | None = None,
    labelled_classes: Sequence[str] | None = None,
    distances: bool = True,
) -> CaseScores:
    """Score probs (C, *S) of one volume against labels (*S).

    `composites` names unions of classes, such as {"WT": (1, 2, 3)}: their probabilities are added.
    `labelled_classes` lists the classes annotated in this case; scores of the others, and those of the top label
    when any is missing, are left out. Raises ValueError for bad probabilities, labels or shapes.
    """
    composites = dict(composites or {})
    channels = (*class_names, *composites)
    if probs.shape[0] != len(class_names):
        raise ValueError(f"{len(class_names)} classes are named, the probabilities have {probs.shape[0]} channels")
    probs = checked_probs(probs[None])[0]
    predicted = probs.argmax(0)
    flat, flat_labels, counted = flat_voxels(probs[None], labels[None], ignore_index, None)
    named = ("all", *(name for name in regions if name != "all"))  # overlap is counted over all voxels
    masks = torch.stack([REGIONS[name](flat_labels, predicted.reshape(-1)) & counted for name in named])
    known = None if posterior is None else posterior.reshape(probs.shape[0], -1)
    groups = list(composites.values())
    tables = score_voxels(flat, flat_labels, masks, composites=groups, posterior=known)
    labelled = _labelled(channels, composites, class_names, labelled_classes)
    scored = {name: _region_of(tables, named.index(name), labelled) for name in regions}
    overlap = OverlapCounts.from_confusion(tables.confusion[0], groups)
    valid = torch.ones_like(labels, dtype=torch.bool) if ignore_index is None else labels != ignore_index
    members = [(k,) for k in range(len(class_names))] + [tuple(g) for g in groups]
    surface = _distances(predicted, labels, valid, members, labelled, spacing_mm) if distances else ()
    return CaseScores(
        case_id,
        patient_id or case_id,
        channels,
        len(class_names),
        spacing_mm,
        overlap,
        scored,
        surface,
        labelled,
    )


def _labelled(
    channels: Sequence[str],
    composites: Mapping[str, Sequence[int]],
    class_names: Sequence[str],
    labelled_classes: Sequence[str] | None,
) -> tuple[bool, ...]:
    """Background is only known where every organ was looked for."""
    if labelled_classes is None:
        return (True,) * len(channels)
    known = set(labelled_classes)
    complete = set(class_names[1:]) <= known
    of_class = [complete, *(name in known for name in class_names[1:])]
    return (*of_class, *(all(of_class[k] for k in members) for members in composites.values()))


def _region_of(tables: ScoreTables, region: int, labelled: Sequence[bool]) -> RegionScores:
    counts = CalibrationCounts.of_region(tables, region)
    voxels = counts.voxels()
    sums = ScoreSums(voxels, tables.sums[region], int(tables.zero_probability[region]), tables.truth_hi is not None)
    if all(labelled):
        return RegionScores(counts, sums)
    keep = torch.tensor([False, *labelled])[:, None]
    kept: dict[str, Any] = {k: None if v is None else v * keep for k, v in vars(counts).items()}
    return RegionScores(CalibrationCounts(**kept), ScoreSums.zeros())


def _distances(
    predicted: Tensor,
    labels: Tensor,
    valid: Tensor,
    members: Sequence[tuple[int, ...]],
    labelled: Sequence[bool],
    spacing_mm: tuple[float, float, float],
) -> tuple[float, ...]:
    """HD95 of every foreground channel; NaN for the background, which is no structure, and for unlabelled ones."""
    found = [float("nan")]
    for classes, known in list(zip(members, labelled, strict=True))[1:]:
        if not known:
            found.append(float("nan"))
            continue
        wanted = torch.tensor(classes)
        masks = [(torch.isin(volume, wanted) & valid).numpy() for volume in (predicted, labels)]
        found.append(hd95_mm(masks[0], masks[1], spacing_mm))
    return tuple(found)


def _region_arrays(name: str, region: RegionScores) -> dict[str, np.ndarray]:
    counts, sums = region.calibration, region.sums
    arrays = {f"{name}/{key}": value.numpy() for key, value in vars(counts).items() if value is not None}
    arrays[f"{name}/sums"] = sums.limbs.numpy()
    arrays[f"{name}/scalars"] = np.array([sums.voxels, sums.zero_probability, sums.has_posterior], np.int64)
    return arrays


def _region_from(name: str, arrays: Mapping[str, np.ndarray]) -> RegionScores:
    prefix = f"{name}/"
    tables = {key.removeprefix(prefix): torch.from_numpy(a) for key, a in arrays.items() if key.startswith(prefix)}
    limbs, scalars = tables.pop("sums"), tables.pop("scalars").tolist()
    sums = ScoreSums(scalars[0], limbs, scalars[1], bool(scalars[2]))
    return RegionScores(CalibrationCounts(**tables), sums)
