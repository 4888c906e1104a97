"""Which terms of an objective are computed together in one pass, and the pass itself."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor

from medcalib.losses.term import FusedPart, Term
from medcalib.ops.fused import FusedSpec, FusedStats, constant_multipliers
from medcalib.ops.fused_op import fused_loss, supports

_WINDOW = ("window", "kernel_size", "padding", "sigma")


class Pass(NamedTuple):
    """One fused pass: a likelihood, a penalty, or both."""

    likelihood: str | None
    penalty: str | None
    options: dict[str, Any]
    multipliers: tuple[Tensor, Tensor] | None


def passes(terms: Mapping[str, Term], num_classes: int, device: torch.device) -> list[Pass]:
    """The terms that can be fused: the first likelihood with the first penalty, any other penalty alone."""
    offered = {name: term.fused(num_classes, device) for name, term in terms.items()}
    parts = {name: part for name, part in offered.items() if part is not None}
    likelihoods = [name for name, part in parts.items() if "target" in part.options]
    penalties = [name for name, part in parts.items() if "penalty" in part.options]
    found = []
    if likelihoods and penalties and _one_window(parts[likelihoods[0]], parts[penalties[0]]):
        first, second = likelihoods.pop(0), penalties.pop(0)
        options = parts[first].options | parts[second].options
        found.append(Pass(first, second, options, parts[second].multipliers))
    found += [Pass(name, None, parts[name].options, None) for name in likelihoods]
    found += [Pass(None, name, parts[name].options, parts[name].multipliers) for name in penalties]
    return found


def fused_values(
    which: Pass, logits: Tensor, labels: Tensor, ignore_index: int | None, *, want_sums: bool = False
) -> tuple[dict[str, Tensor], FusedStats | None]:
    """The values of the terms of a pass by name, and with `want_sums` what the multipliers of its penalty observe.

    Empty and None where the active backend cannot compute it.
    """
    axes = logits.ndim - 2
    size = which.options.get("kernel_size", ())
    options = which.options | {"kernel_size": (size,) * axes if isinstance(size, int) else tuple(size)}
    spec = FusedSpec(**options)
    if not supports(spec, logits, labels):
        return {}, None
    lam, rho = which.multipliers or constant_multipliers(0.0, 0.0, logits.shape[1], logits.device)
    ce, penalty, sums = fused_loss(logits, labels, lam, rho, spec, ignore_index, want_stats=want_sums)
    named = ((which.likelihood, ce), (which.penalty, penalty))
    values = {name: value for name, value in named if name is not None}
    return values, FusedStats.unpack(sums) if want_sums else None


def _one_window(likelihood: FusedPart, penalty: FusedPart) -> bool:
    """Whether both look at the same window, or at most one at any."""
    if "window" not in likelihood.options or "window" not in penalty.options:
        return True
    return all(likelihood.options.get(key) == penalty.options.get(key) for key in _WINDOW)
