"""Published evaluation protocols, reproduced: what their authors' code prints for a case, and over cases.

    numbers = protocol_case("marginloss", probs, labels, class_names)
    protocol_mean("marginloss", [numbers, ...])

Bins, thresholds, masks and conventions are those of the code that is named; sums are exact instead of float32. They are
for comparing with printed tables, not for judging a model: each hides something, and says so.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import ModuleType

from torch import Tensor

from medcalib.metrics.channels import channels_of
from medcalib.metrics.protocols import acl, marginloss, monai, svls
from medcalib.metrics.protocols.given import HIDDEN, Given, Numbers
from medcalib.metrics.slabs import probabilities

__all__ = ["PROTOCOLS", "protocol_case", "protocol_mean", "protocol_text", "shown"]

PROTOCOLS: dict[str, ModuleType] = {"marginloss": marginloss, "svls": svls, "monai": monai, "acl": acl}


def protocol_case(
    name: str,
    probs: Tensor,
    labels: Tensor,
    class_names: Sequence[str],
    *,
    composites: Mapping[str, Sequence[int]] | None = None,
    activation: str = "softmax",
    groups: Sequence[Sequence[int]] | None = None,
    ignore_index: int | None = None,
) -> Numbers:
    """Numbers of one case under a published protocol, from probs (C, *S) and labels (*S); options as `score_case`.

    None where the authors' code fails, or the protocol does not fit (exclusive classes for sigmoid channels, or
    the reverse). Raises ValueError for a name that is not in PROTOCOLS. `activation` and `groups`: there, too.
    """
    channels = channels_of(class_names, composites or {}, activation, groups)
    flat = probs.detach().cpu().as_subclass(Tensor).reshape(probs.shape[0], -1)
    p = probabilities(flat.float(), activation).float().reshape(probs.shape)
    found: Numbers = _protocol(name).case(Given(p, labels.cpu().as_subclass(Tensor), channels, ignore_index))
    return found


def protocol_mean(name: str, cases: Sequence[Numbers]) -> Numbers:
    """The number that the authors report over cases. Raises ValueError for a name that is not in PROTOCOLS."""
    found: Numbers = _protocol(name).mean([case for case in cases if case])
    return found


def protocol_text(name: str) -> str:
    """What a protocol computes, in words. Raises ValueError for a name that is not in PROTOCOLS."""
    return " ".join(str(_protocol(name).DEFINITION).split())


def shown(numbers: Numbers) -> Numbers:
    """The numbers of a case without those that only `protocol_mean` reads."""
    return {key: value for key, value in numbers.items() if not key.startswith(HIDDEN)}


def _protocol(name: str) -> ModuleType:
    if name not in PROTOCOLS:
        raise ValueError(f"protocol must be one of {', '.join(PROTOCOLS)}, got {name!r}")
    return PROTOCOLS[name]
