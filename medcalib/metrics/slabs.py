"""Volumes in parts: the whole, or slabs along its last axis, looked at alike."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from medcalib.metrics.checks import checked_probs
from medcalib.ops.inputs import check_tensor

Slabs = Iterable[tuple[slice, "Tensor | NDArray[Any]"]]
_STEP = 1 << 20  # voxels at a time of a prediction that is in memory


@dataclass(frozen=True)
class Place:
    """Which voxels of a volume a piece holds: a range of all, or of the last axis."""

    at: slice
    flat: bool

    def take(self, volume: Tensor) -> Tensor:
        """These voxels (n,) of a volume (*S)."""
        return volume.reshape(-1)[self.at] if self.flat else volume[..., self.at].reshape(-1)

    def put(self, volume: Tensor, values: Tensor) -> None:
        """Write these voxels (n,) into a contiguous volume (*S)."""
        view = volume.view(-1)[self.at] if self.flat else volume[..., self.at]
        view.copy_(values.reshape(view.shape))


def parts(probs: Tensor | Slabs, shape: Sequence[int]) -> Iterator[tuple[Tensor, Place]]:
    """Pieces of a prediction: values (C, n) and where they lie in the volume.

    Slabs come in any order and must cover the last axis once. Raises ValueError where they, or shapes, do not fit.
    """
    if isinstance(probs, Tensor):
        _check_shape(probs.shape[1:], shape, "probabilities")
        flat = _plain(probs).reshape(probs.shape[0], -1)
        for start in range(0, flat.shape[1], _STEP):
            part = slice(start, start + _STEP)
            yield flat[:, part], Place(part, flat=True)
        return
    if isinstance(probs, np.ndarray):
        check_tensor("probs", probs)
    covered = np.zeros(shape[-1], bool)
    for piece in probs:
        part, values = _checked_slab(piece)
        slab = _plain(values)
        start, stop, _ = part.indices(shape[-1])
        _check_shape(slab.shape[1:], (*shape[:-1], max(stop - start, 0)), f"slab {start}..{stop}")
        if covered[start:stop].any():
            raise ValueError(f"slab {start}..{stop} overlaps another one; each position along the last axis comes once")
        covered[start:stop] = True
        yield slab.reshape(slab.shape[0], -1), Place(part, flat=False)
    if not covered.all():
        raise ValueError(f"the slabs cover {int(covered.sum())} of {shape[-1]} positions along the last axis; give all")


def _checked_slab(piece: Any) -> tuple[slice, Tensor | NDArray[Any]]:
    if not isinstance(piece, (tuple, list)) or len(piece) != 2 or not isinstance(piece[0], slice):
        raise ValueError("expected probs as a tensor (C, *S), or as slabs (slice along the last axis, (C, ..., n))")
    return piece[0], piece[1]


def whole(probs: Tensor | Slabs) -> Tensor:
    """The prediction (C, *S) in memory."""
    if isinstance(probs, Tensor):
        return probs
    slabs = sorted(((part.start or 0, _plain(values)) for part, values in probs), key=lambda slab: slab[0])
    return torch.cat([values for _, values in slabs], -1)


def probabilities(values: Tensor, activation: str) -> Tensor:
    """Checked probabilities of one piece (C, n); of logits, their float64 softmax, the same for any pieces."""
    if activation != "logits":
        return checked_probs(values[None], exclusive=activation == "softmax")[0]
    if not bool(torch.isfinite(values).all()):
        raise ValueError("logits hold NaN or infinite values; has the network diverged, or half precision overflowed?")
    shifted = values.numpy().astype(np.float64)
    shifted -= shifted.max(0)
    weights = np.exp(np.ascontiguousarray(shifted))
    return torch.from_numpy(weights / weights.sum(0))


def winner(p: Tensor) -> Tensor:
    """The lowest class of the largest probability, (C, *S) -> (*S) uint8; class by class, argmax is slow on strides."""
    values = p.numpy()
    best, winner = values[0], np.zeros(values.shape[1:], np.uint8)
    for k in range(1, len(values)):
        winner = np.maximum(winner, (values[k] > best).view(np.uint8) * np.uint8(k))
        best = np.maximum(best, values[k])
    return torch.from_numpy(winner)


def _plain(values: Tensor | NDArray[Any]) -> Tensor:
    tensor = values if isinstance(values, Tensor) else torch.from_numpy(np.ascontiguousarray(values))
    tensor = tensor.detach().cpu().as_subclass(torch.Tensor)
    return tensor.float() if tensor.dtype in (torch.float16, torch.bfloat16) else tensor


def _check_shape(found: Sequence[int], expected: Sequence[int], what: str) -> None:
    if tuple(found) != tuple(expected):
        batch = "; leave out the batch axis" if tuple(found[1:]) == tuple(expected) else ""
        raise ValueError(f"expected {what} over {tuple(expected)}, the shape of the labels, got {tuple(found)}{batch}")
