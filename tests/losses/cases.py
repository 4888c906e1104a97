"""Inputs and checks that the loss tests share."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from medcalib import losses

GOLDEN = Path(__file__).parent.parent / "golden"


def voxel(*logits: float, label: int) -> tuple[Tensor, Tensor]:
    """logits (1, C, 1, 1) in double and labels (1, 1, 1) of a single voxel."""
    return torch.tensor(logits, dtype=torch.float64).reshape(1, -1, 1, 1), torch.tensor(label).reshape(1, 1, 1)


def random_batch(classes: int = 3, shape: tuple[int, ...] = (2, 3, 4, 3), seed: int = 0) -> tuple[Tensor, Tensor]:
    """Double logits (B, C, *S) with a gradient, labels (B, *S)."""
    generator = torch.Generator().manual_seed(seed)
    logits = 4 * torch.randn(shape[0], classes, *shape[1:], generator=generator, dtype=torch.float64)
    return logits.requires_grad_(), torch.randint(0, classes, shape, generator=generator)


def golden_case(file: str) -> tuple[Any, dict[str, Any], Tensor, Tensor]:
    """A stored result of an official implementation: arrays, their origin, logits (with gradient), labels."""
    stored = np.load(GOLDEN / file)
    meta = json.loads(str(stored["meta"]))
    logits = torch.from_numpy(stored["logits"]).double().requires_grad_()
    return stored, meta, logits, torch.from_numpy(stored["labels"].astype(np.int64))


Summands = list[tuple[float, str, dict[str, Any]]]  # coefficient, method, hyperparameters


def check_golden(
    file: str, name: str, variants: dict[str, dict[str, Any] | Summands], *, loose: Sequence[str] = ()
) -> None:
    """Loss and gradient of every stored variant equal the official ones: 1e-9 in double, 2e-6 in float32.

    `variants` gives the hyperparameters of each, or a weighted sum of methods; `loose` names those that the
    official code computes in float32.
    """
    stored, meta, logits, labels = golden_case(file)
    ignore = {"ignore_index": 255} if bool((labels == 255).any()) else {}
    images = torch.from_numpy(stored["image"]) if "image" in stored.files else None
    found = [variant for variant in variants if variant in meta.get("variants", {})]
    assert found, f"{file} holds {list(meta['variants'])}"
    for variant in found:
        rtol, chosen = 1e-6 if variant in loose else 1e-9, variants[variant]
        summands = [(1.0, name, chosen)] if isinstance(chosen, dict) else chosen
        parts = [(c, losses.build(method, logits.shape[1], **own, **ignore)) for c, method, own in summands]
        loss = torch.stack([c * objective(logits, labels, images) for c, objective in parts]).sum()
        expected = stored[f"loss__{variant}"].item()
        (gradient,) = torch.autograd.grad(loss, logits)
        official = torch.from_numpy(stored[f"grad__{variant}"])
        assert loss.item() == pytest.approx(expected, rel=rtol)
        torch.testing.assert_close(gradient, official, rtol=0, atol=10 * rtol * float(official.abs().max()))
        if len(parts) == 1:
            single = parts[0][1](logits.detach().float(), labels, None if images is None else images.float())
            assert single.item() == pytest.approx(expected, rel=2e-6)


def check_gradient(name: str, **hyper: Any) -> None:
    """The analytic gradient is the numeric one, in double."""
    logits, labels = random_batch()
    objective = losses.build(name, 3, **hyper)
    torch.autograd.gradcheck(lambda z: objective(z, labels), (logits,))


def check_ignored(name: str, *, cropped: bool = True, **hyper: Any) -> None:
    """Ignored voxels change neither loss nor gradient, whatever stands there, and get no gradient.

    `cropped`: ignoring a half is the same as not having it; not so for windows, which look beyond the edge.
    """
    logits, labels = random_batch(shape=(1, 4, 4, 4))
    ignored = torch.zeros_like(labels, dtype=torch.bool)
    ignored[:, 2:] = True
    objective = losses.build(name, 3, ignore_index=255, **hyper)
    loss = objective(logits, labels.masked_fill(ignored, 255))
    (gradient,) = torch.autograd.grad(loss, logits)
    assert not gradient[:, :, 2:].any()
    wild = torch.where(ignored[:, None], 1e4 * logits.detach(), logits.detach())
    torch.testing.assert_close(objective(wild, labels.masked_fill(ignored, 255)), loss.detach())
    if cropped:
        alone = losses.build(name, 3, **hyper)(logits[:, :, :2], labels[:, :2])
        torch.testing.assert_close(alone.detach(), loss.detach())


def check_infinite_ignored(name: str, **hyper: Any) -> None:
    """An infinite logit at an ignored voxel reaches neither the loss nor a gradient."""
    logits, labels = random_batch(shape=(1, 2, 2, 2))
    labels[0, 0, 0, 0] = 255
    with torch.no_grad():
        logits[0, 1, 0, 0, 0] = torch.inf
    loss = losses.build(name, 3, ignore_index=255, **hyper)(logits, labels)
    (gradient,) = torch.autograd.grad(loss, logits)
    assert loss.isfinite()
    assert gradient.isfinite().all()


def check_all_ignored(name: str, **hyper: Any) -> None:
    """Without a valid voxel loss and gradient are finite."""
    logits, labels = random_batch(shape=(1, 2, 2, 2))
    loss = losses.build(name, 3, ignore_index=255, **hyper)(logits, torch.full_like(labels, 255))
    (gradient,) = torch.autograd.grad(loss, logits)
    assert loss.isfinite()
    assert gradient.isfinite().all()


SCALES = (1.0, 891 / 1024, 1261 / 1024)  # of the logits in the three epochs of a stored sequence


def tensors(objective: losses.Objective) -> dict[str, Tensor]:
    """The state as flat tensors: buffers, and the sums that are kept beside them."""
    flat = {}
    for key, value in objective.state_dict().items():
        flat |= {f"{key}.{k}": v for k, v in value.items()} if isinstance(value, dict) else {key: value}
    return flat


def check_golden_sequence(file: str, name: str, variants: dict[str, dict[str, Any]]) -> None:
    """Three epochs of a method with multipliers: penalty, gradient, lam and rho equal the official ones.

    Each epoch: penalty and gradient of scaled logits; then two validation batches of unequal size are observed and the
    multipliers step. The state is moved to a new objective after the first epoch.
    """
    stored, meta, base, labels = golden_case(file)
    base, classes = base.detach(), base.shape[1]
    found = [variant for variant in variants if variant in meta["variants"]]
    assert found, f"{file} holds {list(meta['variants'])}"
    ce = losses.build("ce", classes)
    for variant in found:
        objective = losses.build(name, classes, **variants[variant])
        for epoch, scale in enumerate(SCALES):
            logits = (base * scale).requires_grad_()
            penalty = objective(logits, labels) - ce(logits, labels)
            assert penalty.item() == pytest.approx(stored[f"penalty__{variant}"][epoch], rel=1e-8, abs=1e-13)
            if f"grad__{variant}_e{epoch}" in stored.files:
                (gradient,) = torch.autograd.grad(penalty, logits)
                official = torch.from_numpy(stored[f"grad__{variant}_e{epoch}"])
                torch.testing.assert_close(gradient, official, rtol=0, atol=1e-7 * float(official.abs().max()) + 1e-17)
            seen = torch.cat([base * scale, base.roll(1, -1) * (scale * 1.125)])
            truth = torch.cat([labels, labels.roll(1, -1)])
            objective.observe(seen[:1], truth[:1])
            objective.observe(seen[1:], truth[1:])
            objective.update()
            state = objective.state_dict()
            for key, official in (("lam", stored[f"lambda__{variant}"]), ("rho", stored[f"rho__{variant}"])):
                (ours,) = (value for place, value in state.items() if place.endswith(f".{key}"))
                assert ours.numpy() == pytest.approx(official[epoch], rel=1e-9)
            if epoch == 0:
                objective = losses.build(name, classes, **variants[variant])
                objective.load_state_dict(state)
