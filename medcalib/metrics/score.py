"""Scoring one case in one pass over its voxels, whole or slab by slab."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import nan

import numpy as np
import torch
from scipy.ndimage import find_objects
from torch import Tensor

from medcalib.metrics.calibration import CalibrationCounts
from medcalib.metrics.case import CaseScores, RegionScores
from medcalib.metrics.channels import channels_of
from medcalib.metrics.checks import checked_labels, checked_masks
from medcalib.metrics.numbers import CASE_KEYS
from medcalib.metrics.protocols import protocol_case
from medcalib.metrics.protocols.given import Numbers
from medcalib.metrics.regions import BOUNDARY_MM, REGIONS, check_spacing, near_surface
from medcalib.metrics.slabs import Slabs, whole
from medcalib.metrics.stream import Case, Counted, count
from medcalib.metrics.sums import ScoreSums
from medcalib.metrics.surface import TOLERANCE_MM, Box, box_around, hd95_mm, surface_dice
from medcalib.metrics.volume import VolumeCounts


def score_case(
    probs: Tensor | Slabs,
    labels: Tensor,
    *,
    case_id: str,
    class_names: Sequence[str],
    patient_id: str | None = None,
    spacing_mm: tuple[float, ...] = (1.0, 1.0, 1.0),
    regions: Sequence[str] = tuple(REGIONS),
    composites: Mapping[str, Sequence[int]] | None = None,
    posterior: Tensor | None = None,
    ignore_index: int | None = None,
    labelled_classes: Sequence[str] | None = None,
    distances: bool = True,
    activation: str = "softmax",
    groups: Sequence[Sequence[int]] | None = None,
    masks: Mapping[str, Tensor] | None = None,
    boundary_mm: float = BOUNDARY_MM,
    surface_tolerance_mm: float = TOLERANCE_MM,
    protocols: Sequence[str] = (),
    warnings: Sequence[str] = (),
    inputs: Mapping[str, str] | None = None,
) -> CaseScores:
    """Score the prediction of one volume against labels (*S).

    `probs`: (C, *S), or slabs (slice along the last axis, (C, ..., n)) that cover it once, in any order; memory then
    is bounded by a slab and volumes of one byte a voxel (`protocols` need the whole prediction). The result has the
    same bits either way. `activation`: softmax probabilities, logits, or the probabilities of independent sigmoid
    channels, of which `groups` says the label values; those have no top-label scores.

    `composites` names unions of classes, such as {"WT": (1, 2, 3)}: their probabilities are added.
    `labelled_classes` lists the classes annotated in this case; scores of the others, and those of the top label
    when any is missing, are left out. masks (*S) bool, by name, are scored as regions. `case_id`, `patient_id` (the
    case's own where None) and `class_names` (background first) describe the case. `posterior` (C, *S) is the known
    class distribution. `distances`: compute HD95 and surface Dice, the latter within `surface_tolerance_mm`;
    `boundary_mm` is half the width of the region `boundary`. `warnings` and `inputs` are kept with the scores as they
    are. Raises ValueError for bad probabilities, labels, masks or shapes.
    """
    channels = channels_of(class_names, composites or {}, activation, groups)
    labels = checked_labels(labels, len(class_names), ignore_index)
    masks = checked_masks(masks or {}, labels.shape, (*REGIONS, *CASE_KEYS))
    names = _region_names(regions)
    spacing = spacing_mm[: labels.ndim] if spacing_mm == (1.0, 1.0, 1.0) else spacing_mm
    check_spacing(spacing, labels.shape)
    near = near_surface(labels, spacing, boundary_mm, ignore_index) if "boundary" in names else None
    case = Case(labels, channels, activation, names, masks, near, posterior, ignore_index)
    probs = whole(probs) if protocols else probs
    counted = count(probs, case)
    labelled = channels.labelled(class_names, labelled_classes)
    overlap = counted.overlap()
    surface = _surface_scores(counted, case, labelled, spacing, surface_tolerance_mm) if distances else []
    published = _published(protocols, probs, case, class_names, composites, groups) if all(labelled) else {}
    places = {name: place for place, name in enumerate((*names, *masks)) if name in (*regions, *masks)}
    return CaseScores(
        case_id=case_id,
        patient_id=patient_id or case_id,
        channels=channels.names,
        num_classes=channels.num_classes,
        spacing_mm=tuple(spacing_mm),
        overlap=overlap,
        confusion=counted.tables.confusion[0],
        volumes=VolumeCounts.of(counted.region(0), overlap),
        regions={name: _region_of(counted, places[name], labelled) for name in (*regions, *masks)},
        hd95_mm=tuple(first for first, _ in surface),
        surface_dice=tuple(second for _, second in surface),
        labelled=labelled,
        binary=channels.binary,
        settings={"boundary_mm": boundary_mm, "surface_tolerance_mm": surface_tolerance_mm},
        masks=tuple(masks),
        protocols={name: published.get(name, {}) for name in protocols},
        warnings=tuple(warnings),
        inputs=dict(inputs or {}),
    )


def _region_names(regions: Sequence[str]) -> tuple[str, ...]:
    """The regions, all voxels first, over which overlap and volume are counted whether it was asked for or not."""
    unknown = [name for name in regions if name not in REGIONS]
    if unknown:
        raise ValueError(f"regions must be of {', '.join(REGIONS)}, got {unknown[0]!r}; give your own as masks")
    return ("all", *(name for name in regions if name != "all"))


def _published(
    protocols: Sequence[str],
    probs: Tensor | Slabs,
    case: Case,
    class_names: Sequence[str],
    composites: Mapping[str, Sequence[int]] | None,
    groups: Sequence[Sequence[int]] | None,
) -> dict[str, Numbers]:
    """Protocols are about complete labels only."""
    return {
        name: protocol_case(
            name,
            whole(probs),
            case.labels,
            class_names,
            composites=composites,
            groups=groups,
            activation=case.activation,
            ignore_index=case.ignore_index,
        )
        for name in protocols
    }


def _region_of(counted: Counted, region: int, labelled: Sequence[bool]) -> RegionScores:
    counts, tables = counted.region(region), counted.tables
    if counted.channels.binary:
        return RegionScores(_kept(counts, labelled), ScoreSums.zeros())
    known = tables.truth_hi is not None
    sums = ScoreSums(counts.voxels(), tables.sums[region], int(tables.zero_probability[region]), known)
    if all(labelled):
        return RegionScores(counts, sums)
    return RegionScores(_kept(counts, labelled), ScoreSums.zeros())


def _kept(counts: CalibrationCounts, labelled: Sequence[bool]) -> CalibrationCounts:
    """Counts without the channels that were not annotated, and without the top label if there is one."""
    keep = torch.tensor([all(labelled), *labelled])[:, None]
    return counts.mapped(lambda table: table * keep)


def _surface_scores(
    counted: Counted, case: Case, labelled: Sequence[bool], spacing_mm: Sequence[float], tolerance_mm: float
) -> list[tuple[float, float]]:
    """HD95 and surface Dice of every channel; NaN for the background, no structure, and for unlabelled ones.

    Each structure is looked at in the box around it: masks of a whole CT for each of many organs would fill gigabytes.
    """
    labels, found, binary = case.labels.numpy(), [(nan, nan)], counted.channels.binary
    label_boxes, drawn = find_objects(labels), counted.predicted.numpy()
    drawn_boxes = [] if binary else find_objects(drawn)
    for k, members in list(enumerate(case.channels.members))[1:]:
        if not labelled[k]:
            found.append((nan, nan))
            continue
        values = members
        if binary:
            drawn, values = counted.predicted[k - 1].numpy(), (1,)
            drawn_boxes = find_objects(drawn)
        box = box_around((*_of_values(label_boxes, members), *_of_values(drawn_boxes, values)), labels.shape)
        if 0 in members:
            box = tuple(slice(None) for _ in labels.shape)
        valid = True if case.ignore_index is None else labels[box] != case.ignore_index
        predicted, reference = (
            np.isin(volume[box], wanted) & valid for volume, wanted in ((drawn, values), (labels, members))
        )
        distance = hd95_mm(predicted, reference, spacing_mm)
        found.append((distance, surface_dice(predicted, reference, spacing_mm, tolerance_mm)))
    return found


def _of_values(boxes: Sequence[Box | None], values: Sequence[int]) -> list[Box | None]:
    """The boxes of these values, which count from 1."""
    return [boxes[value - 1] for value in values if 1 <= value <= len(boxes)]
