"""How the axes of an array without geometry run: proved by the label map that the tool wrote beside it.

An array (C, a, b, c) says nothing of its axes, and the same shape under a flip looks like any other. But its most
probable classes must give the label map of the same case, which does have a geometry. All 48 orders and flips of the
axes are tried against it:

* the documented order agrees in every voxel and no other does: proved;
* only the order of a reader that turns images to RAS agrees (nnU-Net's ...WithReorient), and it is the very turn
  that the affine of the label map asks for: proved twice, and applied;
* several agree (an empty or symmetric map): the reader that plans.json names decides, else the user;
* another order agrees, or none: refused.

A voxel agrees when the map holds its most probable class, or one within 8 ulp of it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import permutations, product
from typing import Any

import nibabel as nib
import numpy as np
from numpy.typing import NDArray

from medcalib.data.geometry import Affine
from medcalib.data.predictions.survey import Predicted
from medcalib.errors import DataError

_SAMPLES = 4096


@dataclass(frozen=True)
class Turn:
    """A permutation of the three axes, then flips along the new ones."""

    axes: tuple[int, int, int]
    flips: tuple[bool, bool, bool] = (False, False, False)

    def __call__(self, array: NDArray[Any]) -> NDArray[Any]:
        """A view of `array` (a, b, c)."""
        steps = tuple(slice(None, None, -1) if flip else slice(None) for flip in self.flips)
        return array.transpose(self.axes)[steps]

    def __str__(self) -> str:
        return "(C, " + ", ".join(
            ("-" if self.flips[self.axes.index(axis)] else "") + "ijk"[self.axes.index(axis)] for axis in range(3)
        ) + ")"  # fmt: skip


IJK = Turn((0, 1, 2))
KJI = Turn((2, 1, 0))  # nnU-Net and SimpleITK: z, y, x
TURNS = tuple(Turn(axes, flips) for axes in permutations(range(3)) for flips in product((False, True), repeat=3))  # type: ignore[arg-type] # lengths are 3


def ras_turn(affine: Affine) -> Turn:
    """How an array (z, y, x) along RAS axes lies on the grid with `affine`: what nnU-Net's reorienting readers make."""
    change = nib.orientations.ornt_transform(nib.orientations.axcodes2ornt("RAS"), nib.io_orientation(affine))
    order = np.argsort(change[:, 0])
    a, b, c = (2 - int(axis) for axis in order)
    f, g, h = (bool(change[axis, 1] < 0) for axis in order)
    return Turn((a, b, c), (f, g, h))


def fitting(predicted: Predicted, seen: NDArray[np.uint8]) -> list[Turn]:
    """The turns that give the shape of the map; a flip of a single plane is no other turn."""
    shape = predicted.first.shape
    return [
        turn
        for turn in TURNS
        if tuple(shape[axis] for axis in turn.axes) == seen.shape
        and not any(flip and n == 1 for flip, n in zip(turn.flips, seen.shape, strict=True))
    ]


def agreeing(predicted: Predicted, seen: NDArray[np.uint8]) -> list[Turn]:
    """The turns under which the predicted classes are those of the map `seen` in every voxel, up to ties."""
    held = np.flatnonzero(seen)
    at = np.unravel_index(held[:: max(1, held.size // _SAMPLES)], seen.shape)
    likely = [
        turn
        for turn in fitting(predicted, seen)
        if _agree(turn(predicted.first)[at], turn(predicted.second)[at], seen[at]).all()
    ]
    return [turn for turn in likely if disagreeing(predicted, seen, turn) == 0]


def disagreeing(predicted: Predicted, seen: NDArray[np.uint8], turn: Turn) -> int:
    """Voxels in which the predicted classes under `turn` are not those of the map."""
    agree = _agree(turn(predicted.first), turn(predicted.second), seen)
    return int(agree.size - np.count_nonzero(agree))


def _agree(first: NDArray[np.uint8], second: NDArray[np.uint8], seen: NDArray[np.uint8]) -> NDArray[np.bool_]:
    found: NDArray[np.bool_] = (first == seen) | (second == seen)
    return found


@dataclass(frozen=True)
class Evidence:
    """What is known of an array's axes: its name for messages, the label map (or None), the map's affine, the reader
    that plans.json names, the orders that its format documents, and whether the user vouches for the first one."""

    what: str
    predicted: Predicted | None
    seen: NDArray[np.uint8] | None
    affine: Affine
    reader: str | None
    documented: Sequence[Turn]
    assumed: bool


def settled(evidence: Evidence) -> tuple[Turn, tuple[str, ...]]:
    """The turn to apply, and warnings.

    Raises `DataError`: orientation_unproved, orientation_mismatch, map_disagrees.
    """
    if evidence.seen is None or evidence.predicted is None:
        return _without_map(evidence)
    agree = agreeing(evidence.predicted, evidence.seen)
    documented = [turn for turn in evidence.documented if turn in agree]
    reoriented = ras_turn(evidence.affine)
    if len(agree) == 1 and documented:
        return documented[0], ()
    if len(agree) == 1 and agree[0] == reoriented:
        return reoriented, (_turned_text(reoriented),)
    if len(agree) > 1 and documented:
        return _of_several(evidence, agree, documented, reoriented)
    if agree:
        raise DataError(
            "orientation_mismatch",
            f"{evidence.what} gives the label map beside it only with axes {agree[0]}, not {evidence.documented[0]}: "
            "it is flipped or permuted, as a reader that reorients images does; write it in the axes of the label map",
        )
    return _disagreeing(evidence, evidence.predicted, evidence.seen)


def _turned_text(turn: Turn) -> str:
    return (
        f"reoriented: the array runs along RAS axes, {turn} on the label map's grid, as nnU-Net's reorienting readers "
        "write it; turned back, proved by the label map and its affine"
    )


def _reorients(reader: str | None) -> bool:
    return reader is not None and "WithReorient" in reader


def _without_map(evidence: Evidence) -> tuple[Turn, tuple[str, ...]]:
    turn = evidence.documented[0]
    if turn == KJI and _reorients(evidence.reader):
        turn = ras_turn(evidence.affine)
    if evidence.assumed:
        return turn, (f"orientation_assumed: no label map beside the array proves its axes; taken as {turn}",)
    raise DataError(
        "orientation_unproved",
        f"{evidence.what}: no label map of the same case (<case>.nii.gz) beside it proves how its axes run, and a flip "
        f"would not be noticed; put it there, or pass --assume-orientation if you know that they are {turn}",
    )


def _of_several(
    evidence: Evidence, agree: Sequence[Turn], documented: Sequence[Turn], reoriented: Turn
) -> tuple[Turn, tuple[str, ...]]:
    """Which of several turns that give the same label map: by the reader that the tool says it used."""
    if evidence.reader is not None and evidence.documented[0] == KJI:
        if not _reorients(evidence.reader) and KJI in agree:
            return KJI, ()
        if _reorients(evidence.reader) and reoriented in agree:
            return reoriented, (_turned_text(reoriented),) if reoriented != KJI else ()
    if evidence.assumed:
        turn = documented[0]
        text = f"orientation_assumed: the label map fits {len(agree)} orders of the axes; taken as {turn}"
        return turn, (text,)
    raise DataError(
        "orientation_unproved",
        f"{evidence.what}: the label map beside it fits {len(agree)} orders of its axes (it is empty or symmetric) and "
        f"no plans.json names the reader; pass --assume-orientation if you know that they are {documented[0]}",
    )


def _disagreeing(evidence: Evidence, predicted: Predicted, seen: NDArray[np.uint8]) -> tuple[Turn, tuple[str, ...]]:
    """No order of the axes gives the label map: another case, or a map that was changed afterwards."""
    counts = {turn: disagreeing(predicted, seen, turn) for turn in fitting(predicted, seen)}
    best = min(counts, key=lambda turn: (counts[turn], turn not in evidence.documented))
    share = f"{100 * counts[best] / seen.size:.3g} % of the voxels"
    if evidence.assumed and best in evidence.documented:
        return best, (f"map_disagrees: the label map beside the array differs from it in {share}; taken as {best}",)
    raise DataError(
        "map_disagrees",
        f"{evidence.what}: the label map beside it differs from the array's most probable classes in {share} even "
        f"with the best order of the axes, {best}; it is of another case or model, or was changed afterwards "
        "(post-processing): put the unchanged map there, or pass --assume-orientation",
    )
