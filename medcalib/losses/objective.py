"""Objective: a weighted sum of named terms over the voxels that count."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple, cast

import torch
from torch import Tensor, nn

from medcalib.losses.term import Term


class WeightedTerm(NamedTuple):
    """One summand of an objective."""

    name: str
    weight: float
    term: Term


class Objective(nn.Module):
    """loss = sum over terms of weight * term(logits, labels, valid).

    `valid` (the voxels whose label is not `ignore_index`) is computed here once and given to every term, with
    labels set to 0 where they are ignored; so no term can forget it. Terms run in float32 at least, also under
    autocast: bfloat16 has a spacing of 0.0625 at a margin of 10.
    """

    def __init__(self, terms: Iterable[WeightedTerm], num_classes: int, *, ignore_index: int | None = None) -> None:
        super().__init__()
        parts = list(terms)
        if not parts:
            raise ValueError("an objective needs at least one term")
        if num_classes < 2:
            raise ValueError(f"num_classes must be at least 2 (background included), got {num_classes}")
        self.weights = {part.name: float(part.weight) for part in parts}
        if len(self.weights) < len(parts):
            raise ValueError(f"each term may stand once, got {[part.name for part in parts]}")
        self.terms = nn.ModuleDict({part.name: part.term for part in parts})
        self.num_classes, self.ignore_index = num_classes, ignore_index

    def forward(self, logits: Tensor, labels: Tensor, images: Tensor | None = None) -> Tensor:
        """The loss, a scalar, of logits (B, C, *S) and integer labels (B, *S); images (B, M, *S) may be given."""
        return torch.stack(list(self.parts(logits, labels, images).values())).sum()

    def parts(self, logits: Tensor, labels: Tensor, images: Tensor | None = None) -> dict[str, Tensor]:
        """The weighted terms by name; their sum is the loss."""
        inputs = self._prepared(logits, labels)
        with torch.autocast(logits.device.type, enabled=False):
            return {
                name: self.weights[name] * term(*inputs, *_images_for(term, images, inputs[1]))
                for name, term in zip(self.terms, self._terms(), strict=True)
            }

    @property
    def observes(self) -> bool:
        """Whether any term learns from `observe`; without one a caller need not move data to the device."""
        return any(type(term).observe is not Term.observe for term in self._terms())

    @torch.no_grad()
    def observe(self, logits: Tensor, labels: Tensor) -> None:
        """Let terms with multipliers see a batch (sums are added up, nothing changes yet)."""
        inputs = self._prepared(logits, labels)
        with torch.autocast(logits.device.type, enabled=False):
            for term in self._terms():
                term.observe(*inputs)

    def update(self) -> None:
        """Let terms with multipliers take their step from everything observed since the last one."""
        for term in self._terms():
            term.update()

    def _terms(self) -> list[Term]:
        return cast(list[Term], list(self.terms.values()))

    def _prepared(self, logits: Tensor, labels: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Plain tensors (a MetaTensor costs time and breaks torch.compile), float32 at least, labels as int64."""
        logits, labels = logits.as_subclass(torch.Tensor), labels.as_subclass(torch.Tensor)
        if logits.ndim < 3 or logits.shape[1] != self.num_classes:
            raise ValueError(f"expected logits (B, {self.num_classes}, *S), got {tuple(logits.shape)}")
        if labels.shape != (logits.shape[0], *logits.shape[2:]):
            raise ValueError(
                f"expected labels {(logits.shape[0], *logits.shape[2:])} beside logits {tuple(logits.shape)}, "
                f"got {tuple(labels.shape)}; labels have no channel axis"
            )
        labels = labels.long()
        valid = torch.ones_like(labels, dtype=torch.bool) if self.ignore_index is None else labels != self.ignore_index
        if self.ignore_index is not None:
            # an infinite logit at an ignored voxel must reach neither a sum nor a gradient
            logits, labels = logits.masked_fill(~valid.unsqueeze(1), 0), labels.where(valid, 0)
        self._check_range(labels)
        if logits.dtype in (torch.float16, torch.bfloat16):
            logits = logits.float()
        return logits, labels, valid

    def _check_range(self, labels: Tensor) -> None:
        """On a GPU this would wait for the device each step, and gather reports it there anyway."""
        if labels.device.type != "cpu" or not labels.numel():
            return
        low, high = labels.aminmax()
        if low < 0 or high >= self.num_classes:
            hint = (
                "" if self.ignore_index is not None else f"; pass ignore_index={int(high)} if it marks ignored voxels"
            )
            raise ValueError(f"labels must lie in 0..{self.num_classes - 1}, got {int(low)}..{int(high)}{hint}")


def _images_for(term: Term, images: Tensor | None, labels: Tensor) -> tuple[Tensor, ...]:
    """The images, plain and in float32 at least, for a term that weighs voxels by intensity; nothing for others."""
    if not term.uses_images:
        return ()
    if images is None:
        raise ValueError("this objective weighs voxels by image intensity: pass images (B, M, *S)")
    if images.ndim != labels.ndim + 1 or images.shape[:1] + images.shape[2:] != labels.shape:
        raise ValueError(f"expected images (B, M, *S) beside labels {tuple(labels.shape)}, got {tuple(images.shape)}")
    images = images.as_subclass(torch.Tensor)
    return (images.float() if images.dtype in (torch.float16, torch.bfloat16) else images,)
