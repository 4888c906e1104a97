"""Objective: a weighted sum of named terms over the voxels that count."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from functools import reduce
from typing import NamedTuple, cast

import torch
from torch import Tensor, nn

from medcalib.losses.fusion import Pass, fused_values, passes
from medcalib.losses.term import Term
from medcalib.ops.fused import FusedStats
from medcalib.ops.inputs import check_tensor, look_like_probabilities
from medcalib.ops.label_range import label_range_error
from medcalib.ops.plain import plain
from medcalib.options import check_option

log = logging.getLogger(__name__)


class WeightedTerm(NamedTuple):
    """One summand of an objective: the `name` that logs show, its `weight` >= 0, and the `term`."""

    name: str
    weight: float
    term: Term


class Objective(nn.Module):
    """loss = sum over terms of weight * term(logits, labels, valid).

    `valid` (the voxels whose label is not `ignore_index`) is computed here once and given to every term, with
    labels set to 0 where they are ignored; so no term can forget it. Terms run in float32 at least, also under
    autocast: bfloat16 has a spacing of 0.0625 at a margin of 10. Raises ValueError without a term, for a name that
    stands twice, and for fewer than two classes.
    """

    def __init__(self, terms: Iterable[WeightedTerm], num_classes: int, *, ignore_index: int | None = None) -> None:
        super().__init__()
        parts = list(terms)
        if not parts:
            raise ValueError("an objective needs at least one term, got none")
        check_option("num_classes", num_classes, int)
        if num_classes < 2:
            raise ValueError(f"num_classes must be at least 2 (background included), got {num_classes}")
        if ignore_index is not None:
            check_option("ignore_index", ignore_index, int)
        self.weights = {part.name: float(part.weight) for part in parts}
        if len(self.weights) < len(parts):
            raise ValueError(f"each term may stand once, got {', '.join(part.name for part in parts)}")
        self.terms = nn.ModuleDict({part.name: part.term for part in parts})
        self.num_classes, self.ignore_index = num_classes, ignore_index
        self._remembered: tuple[Tensor, Tensor, dict[str, FusedStats]] | None = None
        self._looked = False

    def forward(self, logits: Tensor, labels: Tensor, images: Tensor | None = None) -> Tensor:
        """The loss, a scalar, of logits (B, C, *S) and integer labels (B, *S); images (B, M, *S) may be given."""
        return reduce(torch.add, self.parts(logits, labels, images).values())

    def parts(
        self, logits: Tensor, labels: Tensor, images: Tensor | None = None, *, remember: bool = False
    ) -> dict[str, Tensor]:
        """The weighted terms by name; their sum is the loss.

        remember: keep what the multipliers need of this batch for `observe_remembered`; a fused pass sums it while it
        computes the loss. Raises ValueError for shapes that do not fit, labels that are no classes, and images that are
        missing.
        """
        logits, labels = self._checked(logits, labels)
        if remember or self._remembered is not None:  # to set an attribute of a module takes microseconds
            self._remembered = (logits.detach(), labels, {}) if remember and self.observes else None
        terms = self._terms()
        if not logits.numel():
            nothing = logits.sum() * 0
            return dict.fromkeys(terms, nothing)
        values: dict[str, Tensor] = {}
        for which in passes(terms, self.num_classes, logits.device):
            values |= self._fused(which, logits, labels, terms)
        if len(values) < len(terms):
            inputs = self._prepared(logits, labels)
            with torch.autocast(logits.device.type, enabled=False):
                for name, term in terms.items():
                    if name not in values:
                        values[name] = term(*inputs, *_images_for(term, images, inputs[1]))
        weighted = {}
        for name in terms:  # in their order; a product with 1 would cost time and nothing else
            weighted[name] = values[name] if self.weights[name] == 1 else self.weights[name] * values[name]
        return weighted

    @property
    def observes(self) -> bool:
        """Whether any term learns from `observe`; without one a caller need not move data to the device."""
        return any(_observes(term) for term in self._terms().values())

    @torch.no_grad()
    def observe(self, logits: Tensor, labels: Tensor) -> None:
        """Let terms with multipliers see a batch (sums are added up, nothing changes yet).

        Raises ValueError as `parts`.
        """
        logits, labels = self._checked(logits, labels)
        self._observe(logits, labels, {})

    @torch.no_grad()
    def observe_remembered(self) -> None:
        """As `observe`, of the batch of the last `parts(..., remember=True)`, which is then forgotten.

        Raises RuntimeError where no batch is remembered.
        """
        if not self.observes:
            return
        if self._remembered is None:
            raise RuntimeError(
                "no batch is remembered: call parts(..., remember=True) before each observe_remembered()"
            )
        remembered, self._remembered = self._remembered, None
        self._observe(*remembered)

    def _observe(self, logits: Tensor, labels: Tensor, sums: dict[str, FusedStats]) -> None:
        """From sums where they are there, else from one more pass."""
        if not logits.numel():
            return
        waiting = {name: term for name, term in self._terms().items() if _observes(term)}
        for which in passes({n: t for n, t in waiting.items() if n not in sums}, self.num_classes, logits.device):
            _, found = fused_values(which, logits, labels, self.ignore_index, want_sums=True)
            if found is not None and which.penalty is not None:
                sums[which.penalty] = found
        for name, found in sums.items():
            waiting.pop(name).add_sums(found)
        if waiting:
            inputs = self._prepared(logits, labels)
            with torch.autocast(logits.device.type, enabled=False):
                for term in waiting.values():
                    term.observe(*inputs)

    def _fused(self, which: Pass, logits: Tensor, labels: Tensor, terms: dict[str, Term]) -> dict[str, Tensor]:
        """The values of a fused pass; its sums are remembered where that is asked for."""
        penalty = which.penalty
        wanted = self._remembered is not None and penalty is not None and _observes(terms[penalty])
        values, sums = fused_values(which, logits, labels, self.ignore_index, want_sums=wanted)
        if self._remembered is not None and penalty is not None and sums is not None:
            self._remembered[2][penalty] = sums
        return values

    def update(self) -> None:
        """Let multipliers step from everything observed since the last step (on all ranks together), and schedules."""
        self.update_multipliers()
        self.update_schedules()

    def update_multipliers(self) -> None:
        """The part of `update` that learns from what was observed."""
        for term in self._terms().values():
            if _observes(term):
                term.update()

    def update_schedules(self) -> None:
        """The part of `update` that only counts."""
        for term in self._terms().values():
            if not _observes(term):
                term.update()

    def discard(self) -> None:
        """Forget what was observed since the last update."""
        self._remembered = None
        for term in self._terms().values():
            term.discard()

    def _terms(self) -> dict[str, Term]:
        return cast(dict[str, Term], dict(self.terms.items()))

    def _checked(self, logits: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Plain tensors of shapes that fit."""
        check_tensor("logits", logits)
        check_tensor("labels", labels)
        logits, labels = plain(logits), plain(labels)
        if not logits.is_floating_point():
            raise ValueError(
                f"logits must be floating-point numbers, got {logits.dtype}; are logits and labels swapped?"
            )
        if logits.ndim < 3 or logits.shape[1] != self.num_classes:
            raise ValueError(
                f"expected logits (B, {self.num_classes}, *S), got {tuple(logits.shape)}; axis 1 holds the classes, "
                f"num_classes={self.num_classes} of them, background included"
            )
        if labels.shape != (logits.shape[0], *logits.shape[2:]):
            axis = "; labels have no channel axis" if labels.ndim == logits.ndim else ""
            raise ValueError(
                f"expected labels {(logits.shape[0], *logits.shape[2:])} beside logits {tuple(logits.shape)}, "
                f"got {tuple(labels.shape)}{axis}{_to_indices(labels, logits)}"
            )
        if labels.device != logits.device:
            raise ValueError(f"logits are on {logits.device}, labels on {labels.device}; use labels.to(logits.device)")
        self._look_once(logits)
        if labels.is_floating_point() and bool((labels != labels.round()).any()):
            raise ValueError("labels must be whole numbers, got fractions; were they resampled with interpolation?")
        return logits, labels

    def _look_once(self, logits: Tensor) -> None:
        """Warn of a network that ends with a softmax; at the first batch, since it takes a pass."""
        if self._looked or torch.compiler.is_compiling() or not logits.numel():
            return
        self._looked = True
        if look_like_probabilities(logits):
            log.warning(
                "the logits of the first batch lie in [0, 1] and sum to 1 over the classes, as probabilities do; "
                "a loss needs what comes before the softmax: remove that from the end of the network"
            )

    def _prepared(self, logits: Tensor, labels: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Logits in float32 at least, labels as int64, and which voxels are valid."""
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
        """Not on a GPU, where it would wait for the device each step, and gather reports it; nor while tracing."""
        if labels.device.type != "cpu" or not labels.numel() or torch.compiler.is_compiling():
            return
        low, high = labels.aminmax()
        if low < 0 or high >= self.num_classes:
            raise label_range_error(int(low), int(high), self.num_classes, self.ignore_index)


def _to_indices(labels: Tensor, logits: Tensor) -> str:
    """How to take the axis away."""
    if labels.shape == logits.shape:
        return ": of one-hot ones use labels.argmax(1)"
    return ": use labels[:, 0]" if labels.ndim == logits.ndim and labels.shape[1] == 1 else ""


def _observes(term: Term) -> bool:
    return type(term).observe is not Term.observe


def _images_for(term: Term, images: Tensor | None, labels: Tensor) -> tuple[Tensor, ...]:
    """The images, plain and in float32 at least, for a term that weighs voxels by intensity; nothing for others."""
    if not term.uses_images:
        return ()
    if images is None:
        raise ValueError("this objective weighs voxels by image intensity: pass images (B, M, *S) after the labels")
    check_tensor("images", images)
    if images.ndim != labels.ndim + 1 or images.shape[:1] + images.shape[2:] != labels.shape:
        raise ValueError(f"expected images (B, M, *S) beside labels {tuple(labels.shape)}, got {tuple(images.shape)}")
    images = plain(images)
    return (images.float() if images.dtype in (torch.float16, torch.bfloat16) else images,)
