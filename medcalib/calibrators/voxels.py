"""The voxels that a calibrator is fitted on, in pieces of bounded size."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

CHUNK = 1 << 15  # logits at a time: 256 KiB in float64, so that all steps on a piece stay in the cache
Batches = Tensor | Sequence[Tensor]


class Chunk(NamedTuple):
    """logits (C, n) float64, labels (n,) int64, and the group of each voxel (n,) int64 where groups were given."""

    logits: Tensor
    labels: Tensor
    groups: Tensor | None = None


class Part(NamedTuple):
    """logits (C, N) of any float type, labels (N,), groups (N,), and which voxels to use (N,); views, not copies."""

    logits: Tensor
    labels: Tensor
    groups: Tensor | None
    mask: Tensor | None


@dataclass(frozen=True)
class Voxels:
    """Voxels to fit on. The parts stay where they are, mapped files too: `chunks` is the only copy, piece by piece.

    `total` is their number.
    """

    num_classes: int
    parts: tuple[Part, ...]
    total: int

    @classmethod
    def of(
        cls,
        logits: Batches,
        labels: Batches,
        num_classes: int,
        *,
        mask: Batches | None = None,
        groups: Batches | None = None,
    ) -> Voxels:
        """From logits (B, C, *S) and labels, mask, groups (B, *S), each a tensor or a sequence of them.

        Raises ValueError for shapes that do not fit, values that are not finite, labels out of range where `mask` is
        true, and when no voxel is left.
        """
        parts: list[Part] = []
        z, y = as_sequence(logits), as_sequence(labels)
        masks: Sequence[Tensor | None] = [None] * len(z) if mask is None else as_sequence(mask)
        grouped: Sequence[Tensor | None] = [None] * len(z) if groups is None else as_sequence(groups)
        if not len(z) == len(y) == len(masks) == len(grouped):
            raise ValueError(f"expected as many labels and masks as logits, got {len(y)} and {len(masks)} for {len(z)}")
        for batch in zip(z, y, grouped, masks, strict=True):
            parts += _parts(*batch, num_classes)
        voxels = cls(num_classes, tuple(parts), 0)
        total = 0
        for part, at in voxels._pieces():
            labels = part.labels[at]
            _check(part.logits[:, at], labels, num_classes)
            total += len(labels)
        if not total:
            raise ValueError("at least one voxel is needed to fit on; the mask leaves none")
        return cls(num_classes, voxels.parts, total)

    def chunks(self) -> Iterator[Chunk]:
        """The voxels in float64, in order, at most 2^15 logits (or 256 voxels) at a time."""
        for part, at in self._pieces():
            groups = None if part.groups is None else part.groups[at].long()
            yield Chunk(part.logits[:, at].double().contiguous(), part.labels[at].long(), groups)

    def sample(self, limit: int, seed: int = 0) -> Voxels:
        """About `limit` voxels drawn without replacement; all of them where there are no more.

        `seed` fixes the draw.
        """
        if self.total <= limit:
            return self
        generator = torch.Generator().manual_seed(seed)
        drawn: dict[int, list[Part]] = {}
        for part, at in self._pieces(wanted=lambda n: torch.rand(n, generator=generator) < limit / self.total):
            groups = None if part.groups is None else part.groups[at]
            drawn.setdefault(id(part), []).append(Part(part.logits[:, at], part.labels[at], groups, None))
        parts = tuple(_joined(pieces) for pieces in drawn.values())
        return Voxels(self.num_classes, parts, sum(len(part.labels) for part in parts)) if parts else self

    def _pieces(self, wanted: Callable[[int], Tensor] | None = None) -> Iterator[tuple[Part, slice | Tensor]]:
        """Where the voxels lie, piece by piece, without empty ones; of them those that wanted(n) (n,) bool chooses."""
        size = piece_size(self.num_classes)
        for part in self.parts:
            for start in range(0, len(part.labels), size):
                whole = slice(start, min(start + size, len(part.labels)))
                used = None if part.mask is None else part.mask[whole]
                if wanted is not None:
                    chosen = wanted(whole.stop - start).to(part.labels.device)
                    used = chosen if used is None else used & chosen
                at: slice | Tensor = whole if used is None else used.nonzero()[:, 0] + start
                if isinstance(at, slice) or len(at):
                    yield part, at


def piece_size(num_classes: int) -> int:
    """How many voxels are worked on at a time: with a row of ones so few numbers that torch starts no threads for them,
    which wait for each other longer than they work."""
    return max(256, CHUNK // (num_classes + 1))


def predicted(logits: Tensor, dim: int = 1) -> Tensor:
    """The class of the largest logit, the first of equals: argmax, which torch is slow at along an axis of strides."""
    best, *others = logits.unbind(dim)
    at = torch.zeros(best.shape, dtype=torch.int64, device=logits.device)
    for k, row in enumerate(others, 1):
        at.masked_fill_(row > best, k)
        best = torch.maximum(best, row)
    return at


def as_sequence(value: Batches) -> Sequence[Tensor]:
    """A tensor as a sequence of one."""
    return [value] if isinstance(value, Tensor) else value


def _parts(
    logits: Tensor, labels: Tensor, groups: Tensor | None, mask: Tensor | None, num_classes: int
) -> Iterator[Part]:
    """One part an image; (N, C) is one image, too."""
    if logits.ndim < 2 or logits.shape[1] != num_classes or not logits.dtype.is_floating_point:
        raise ValueError(f"expected floating logits (B, {num_classes}, *S), got {logits.dtype} {tuple(logits.shape)}")
    shape = (logits.shape[0], *logits.shape[2:])
    for name, value in (("labels", labels), ("mask", mask), ("groups", groups)):
        if value is not None and value.shape != shape:
            raise ValueError(f"expected {name} {shape}, got {tuple(value.shape)}")
    if labels.dtype.is_floating_point or labels.dtype in (torch.bool, torch.complex64, torch.complex128):
        raise ValueError(f"expected labels of an integer type, got {labels.dtype}; use labels.long()")
    z, y = logits.detach(), labels
    if logits.ndim == 2:
        z, y = z.T[None], y[None]
        groups, mask = (None if value is None else value[None] for value in (groups, mask))
    for b in range(len(z)):
        own = [None if value is None else value[b].flatten() for value in (groups, mask)]
        yield Part(z[b].flatten(1), y[b].flatten(), own[0], None if own[1] is None else own[1].bool())


def _joined(pieces: Sequence[Part]) -> Part:
    groups = [piece.groups for piece in pieces if piece.groups is not None]
    logits, labels = torch.cat([piece.logits for piece in pieces], 1), torch.cat([piece.labels for piece in pieces])
    return Part(logits, labels, torch.cat(groups) if groups else None, None)


def _check(logits: Tensor, labels: Tensor, num_classes: int) -> None:
    if not bool(torch.isfinite(logits).all()):
        raise ValueError("logits must be finite; of probabilities, take log(max(p, smallest)) first")
    if int(labels.min()) < 0 or int(labels.max()) >= num_classes:
        span = f"{int(labels.min())}..{int(labels.max())}"
        raise ValueError(f"labels must lie in 0..{num_classes - 1}, got {span}; leave ignored voxels out by `mask`")
