"""A prediction beside its reference, both on the reference's grid."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from medcalib.data.case import Case
from medcalib.data.geometry import WARNINGS, Affine
from medcalib.data.labels import LabelMap
from medcalib.data.load import read_any, read_label, read_posterior
from medcalib.data.predictions.channels import Activation, channels_of
from medcalib.data.predictions.grid import Grid
from medcalib.data.predictions.logits import as_logits
from medcalib.data.predictions.placed import placed
from medcalib.data.predictions.voxels import Voxels
from medcalib.errors import DataError


@dataclass(frozen=True)
class Pair:
    """A prediction and the reference that belongs to it.

    `prediction` is a file, or, for one file a class, their folder `<case>` or the path of their common prefix.
    """

    case: Case
    prediction: Path


@dataclass
class Compared:
    """A pair on the label's own grid: label (i, j, k) uint8 classes, and the prediction, which stays on disk.

    `activation` says what the values of the channels are: `softmax` probabilities, `logits`, or `sigmoid`
    probabilities of independent channels; of the latter `groups` holds the class indices that each one unites.
    `channel_names` names the channels. `warnings` are texts that start with a code. `outside` marks voxels outside
    the tool's crop, whose background was filled in (None: no crop was found).

    Use it as a context manager, or call `close`, to free the temporary files as soon as possible; they are freed
    with the object in any case.
    """

    case: Case
    label: NDArray[np.uint8]
    affine: Affine
    voxels: Voxels | None
    channel_names: tuple[str, ...]
    posterior: NDArray[np.float32] | None = None
    activation: Activation = "softmax"
    groups: tuple[tuple[int, ...], ...] | None = None
    warnings: tuple[str, ...] = ()
    outside: NDArray[np.bool_] | None = None

    @property
    def probs(self) -> NDArray[np.float32]:
        """All class probabilities (C, i, j, k) in memory, read anew at each call; softmax is applied to logits.

        Raises `DataError` (region_probabilities) for sigmoid channels: they are no probabilities of classes.
        """
        if self.groups is not None:
            raise DataError(
                "region_probabilities",
                f"the channels are independent regions ({', '.join(self.channel_names)}); this needs "
                "probabilities of exclusive classes",
            )
        values = self._open().whole()
        if self.activation == "logits":
            values -= values.max(0)
            np.exp(values, out=values)
            values /= values.sum(0)
        return values

    @property
    def logits(self) -> NDArray[np.float32]:
        """Logits (C, i, j, k) in memory, or logarithms of softmax probabilities; see `as_logits`."""
        return as_logits(self._open(), self.activation, self.channel_names)

    def slabs(self, max_voxels: int = 1 << 20) -> Iterator[tuple[slice, NDArray[np.float32]]]:
        """Slices along the last axis k with the values (C, i, j, n) as `activation` says, read in bounded memory.

        A slab holds at most `max_voxels` voxels, or one plane where a plane has more.
        """
        return self._open().slabs(max_voxels)

    def close(self) -> None:
        """Let go of the files. Arrays that were given out stay valid."""
        self.voxels = None

    def __enter__(self) -> Compared:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def _open(self) -> Voxels:
        if self.voxels is None:
            raise ValueError(f"{self.case.id}: this pair has been closed; read it again")
        return self.voxels


def read_pair(
    pair: Pair, label_map: LabelMap, *, assume_logits: bool = False, assume_orientation: bool = False
) -> Compared:
    """Read prediction and reference onto the label's grid; the prediction's values are checked, then stay on disk.

    `assume_logits` takes values for logits where nothing says what they are; `assume_orientation` takes the axes of an
    array for the documented ones where nothing proves it (a proof that they are not still refuses it). Raises
    `DataError` naming file and reason.
    """
    if pair.case.label is None:
        raise DataError("missing_reference", f"{pair.case.id}: no reference label")
    reference = read_any(pair.case.label, dtype=None)
    affine, shape, codes = reference.affine, reference.array.shape[:3], reference.warnings
    label = read_label(reference, pair.case.label, label_map, affine, shape)
    del reference  # of hundreds of megabytes perhaps
    channels = channels_of(pair.prediction, label_map)
    activation = channels.declared(assume_logits=assume_logits)
    if activation == "sigmoid" and channels.groups is None:
        raise DataError(
            "missing_groups",
            f"{pair.prediction} is declared as sigmoid, but nothing says which classes each channel unites; add "
            '"groups": {"<channel>": [<codes>]} to the sidecar',
        )
    found = placed(pair.prediction, channels, Grid(affine, shape), activation, assume_orientation=assume_orientation)
    known = None
    if pair.case.posterior is not None:
        known = read_posterior(pair.case.posterior, label_map.num_classes, affine, shape)
    warnings = (*(f"{code}: {WARNINGS[code]}" for code in codes), *found.warnings)
    return Compared(
        pair.case,
        label,
        affine,
        found.voxels,
        channels.names,
        known,
        activation,
        channels.groups,
        tuple(dict.fromkeys(warnings)),
        found.outside,
    )
