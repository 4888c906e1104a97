"""One pass over a case: every table, and what the prediction says where, from slabs of bounded memory."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from medcalib.metrics.calibration import CalibrationCounts
from medcalib.metrics.channels import Channels
from medcalib.metrics.overlap import OverlapCounts
from medcalib.metrics.products import ProductSums
from medcalib.metrics.regions import REGIONS, Voxels
from medcalib.metrics.slabs import Place, Slabs, parts, probabilities, winner
from medcalib.ops.inputs import check_tensor
from medcalib.ops.label_range import not_ignored
from medcalib.ops.scoring import Scorer, ScoreTables


@dataclass(frozen=True)
class Case:
    """What is known of a case beside its prediction: labels (*S) and what else is looked at voxel by voxel."""

    labels: Tensor
    channels: Channels
    activation: str
    regions: Sequence[str]
    masks: Mapping[str, Tensor]
    near: Tensor | None
    posterior: Tensor | None
    ignore_index: int | None


@dataclass(frozen=True)
class Counted:
    """Tables over the regions, then the masks, and the predicted classes: (*S) uint8, or (G, *S) of binary channels."""

    tables: ScoreTables
    products: Tensor
    predicted: Tensor
    channels: Channels

    def region(self, index: int) -> CalibrationCounts:
        """Counts of one region; binary channels get an empty background before them."""
        counts = CalibrationCounts.of_region(self.tables, index, self.products)
        if not self.channels.binary:
            return counts
        return counts.mapped(lambda t: torch.cat([t[:1], torch.zeros_like(t[:1]), t[1:]]))

    def overlap(self) -> OverlapCounts:
        """Overlap over all valid voxels: of the classes that win, or of binary channels where p > 0.5."""
        if self.channels.binary:
            return OverlapCounts.from_counts(self.region(0))
        composites = self.channels.members[self.channels.predicted :]
        return OverlapCounts.from_confusion(self.tables.confusion[0], composites)


def count(probs: Tensor | Slabs, case: Case) -> Counted:
    """Count every voxel once. Raises ValueError for probabilities that are none, and for slabs that do not fit."""
    channels = case.channels
    scored = channels.members[1:] if channels.binary else channels.members
    scorer = Scorer(
        channels.labels,
        len(case.regions) + len(case.masks),
        composites=() if channels.binary else scored[channels.predicted :],
        groups=scored if channels.binary else None,
        has_posterior=case.posterior is not None,
    )
    if case.posterior is not None:
        check_tensor("posterior", case.posterior)
    if case.posterior is not None and tuple(case.posterior.shape) != (channels.predicted, *case.labels.shape):
        expected = (channels.predicted, *case.labels.shape)
        raise ValueError(f"expected a posterior of shape {expected}, got {tuple(case.posterior.shape)}")
    products = ProductSums(scored, len(case.regions) + len(case.masks), groups=channels.binary)
    shape = ((channels.predicted,) if channels.binary else ()) + tuple(case.labels.shape)
    predicted = torch.zeros(shape, dtype=torch.uint8)
    for values, place in parts(probs, case.labels.shape):
        _check_channels(values, channels)
        p = probabilities(values, case.activation)
        winners = (p > 0.5).to(torch.uint8) if channels.binary else winner(p)[None]
        for volume, found in zip(predicted if channels.binary else [predicted], winners, strict=True):
            place.put(volume, found)
        labels, inside = place.take(case.labels), _inside(case, place, winners.amax(0) > 0)
        posterior = None if case.posterior is None else torch.stack([place.take(known) for known in case.posterior])
        scorer.add(p, labels, inside, posterior)
        products.add(p, labels, inside)
    tables = scorer.tables()
    return Counted(tables, products.limbs(tables), predicted, channels)


def _inside(case: Case, place: Place, foreground: Tensor) -> Tensor:
    """Which regions and masks (R, n) hold these voxels."""
    labels = place.take(case.labels)
    near = torch.zeros_like(foreground) if case.near is None else place.take(case.near)
    at = Voxels(labels, foreground, near)
    inside = torch.stack([*(REGIONS[name](at) for name in case.regions), *map(place.take, case.masks.values())])
    return inside if case.ignore_index is None else inside & not_ignored(labels, case.ignore_index)


def _check_channels(values: Tensor, channels: Channels) -> None:
    if values.shape[0] != channels.predicted:
        what = f"{channels.predicted} {'groups' if channels.binary else 'classes'}"
        raise ValueError(
            f"{what} are named, the probabilities have {values.shape[0]} channels; name one for each, in their order"
        )
