"""One optimizer step: batches whose gradients add up, and nothing changed where a loss or gradient is not finite."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from medcalib import distributed
from medcalib.config import TrainConfig
from medcalib.engine.execution import autocast, images_on_device, on_device
from medcalib.engine.state import State


def optimizer_step(
    network: nn.Module, state: State, config: TrainConfig, patches: Sequence[tuple[Tensor, Tensor]]
) -> dict[str, float] | None:
    """One optimizer step; None when the loss or a gradient is not finite on any rank, and then no weight is changed.

    The host waits for the device once, to learn that; between accumulated batches that drive multipliers, too.
    """
    driven = config.multipliers == "train"
    state.optimizer.zero_grad(set_to_none=True)
    sums: dict[str, Tensor] = {}
    for left, (images, labels) in zip(reversed(range(len(patches))), patches, strict=True):
        with _no_sync(network) if left else nullcontext():  # gradients meet once a step
            for name, part in _backward(network, state, config, images, labels, len(patches)).items():
                sums[name] = sums.get(name, torch.zeros_like(part)) + part / len(patches)
        if driven and left:
            if not _finite(_fetched(sums.values())):
                return None
            state.objective.observe_remembered()
    state.scaler.unscale_(state.optimizer)
    norm = nn.utils.clip_grad_norm_(state.model.parameters(), config.clip_norm or math.inf)
    *values, norm_value = _fetched([*sums.values(), norm.double()])
    finite = _finite([*values, norm_value])
    if finite or (state.scaler.is_enabled() and _finite(values)):
        state.scaler.step(state.optimizer)  # leaves the weights alone when a scaled gradient overflowed
        state.scaler.update()
    elif state.scaler.is_enabled():
        state.scaler.update(state.scaler.get_scale())  # a smaller scale makes no loss finite
    if finite and driven:
        state.objective.observe_remembered()
    return dict(zip(sums, values, strict=True)) if finite else None


def _fetched(scalars: Iterable[Tensor]) -> list[float]:
    """Scalars of the device, in one copy; NaN stands for those that are not finite on some rank."""
    found = torch.stack(list(scalars))
    bad = distributed.all_reduce_sum((~found.isfinite()).long())
    return found.masked_fill(bad > 0, math.nan).tolist()


def _finite(values: Iterable[float]) -> bool:
    return all(math.isfinite(value) for value in values)


def _backward(
    network: nn.Module, state: State, config: TrainConfig, images: Tensor, labels: Tensor, of: int
) -> dict[str, Tensor]:
    """Add the gradient of one of `of` batches; the parts of its loss, which nobody has waited for."""
    images, labels = images_on_device(images, config, state.device), on_device(labels, state.device)
    with autocast(config, state.device):
        logits = network(images)
    parts = state.objective.parts(logits, labels, images, remember=config.multipliers == "train")
    loss = torch.stack(list(parts.values())).sum()
    state.scaler.scale(loss if of == 1 else loss / of).backward()  # type: ignore[no-untyped-call]
    return {name: part.detach().double() for name, part in parts.items()}


def _no_sync(network: nn.Module) -> AbstractContextManager[None]:
    return network.no_sync() if isinstance(network, DistributedDataParallel) else nullcontext()
