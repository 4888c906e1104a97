"""Newton's method for smooth fits of few parameters: full gradient, curvature of a sample, failure raises."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

SAMPLE = 1 << 17  # voxels that give the curvature: an error of 1 % in it costs one more step, no accuracy
_STEPS = 100
_ENOUGH = 1e-18  # half the squared Newton decrement is the distance to the minimum, in nats
_ROUNDING = 1e-13  # below, values differ by rounding only: whole steps are taken, while they still shrink
_RESIDUAL = 1e-8  # squared: a step is as exact as its curvature; the next one begins with the full gradient
Objective = Callable[[Tensor], tuple[float, Tensor]]
Direction = Callable[[Tensor, Tensor], Tensor]


def minimize(
    objective: Objective, direction: Direction, start: Tensor, project: Callable[[Tensor], Tensor] = lambda x: x
) -> Tensor:
    """The minimum of objective(x) -> (value, gradient) by steps along direction(x, gradient) = H^-1 gradient.

    `project` keeps x within bounds. Steps are halved until the value falls. Raises ValueError when there is no
    minimum in sight after 100 steps.
    """
    x = start
    value, gradient = objective(x)
    last = math.inf
    for _ in range(_STEPS):
        step = direction(x, gradient)
        decrement = float(gradient.flatten() @ step.flatten())
        size = max(1.0, abs(value))
        if abs(decrement) <= _ENOUGH * size or last / 4 < abs(decrement) < _ROUNDING * size:
            return x
        last = abs(decrement)
        found = _descended(objective, project, x, value, step, decrement)
        if found is None:
            break
        x, value, gradient = found
    raise ValueError(
        f"the fit did not converge (value {value:.6g} nats, largest parameter {float(x.abs().max()):.3g}): the classes "
        "can be told apart without error, or too few voxels fix the parameters; fit on more cases, or "
        "regularize by an option"
    )


def _descended(
    objective: Objective, project: Callable[[Tensor], Tensor], x: Tensor, value: float, step: Tensor, decrement: float
) -> tuple[Tensor, float, Tensor] | None:
    share = 1.0
    for _ in range(40):
        following = project(x - share * step)
        reached, gradient = objective(following)
        if reached <= value - 1e-4 * share * decrement or abs(decrement) < _ROUNDING * max(1.0, abs(value)):
            return following, reached, gradient
        share /= 2
    return None


def conjugate_gradients(product: Callable[[Tensor], Tensor], target: Tensor, diagonal: Tensor) -> Tensor:
    """x with product(x) = target, in the range of the symmetric, semidefinite product; `diagonal` scales it."""
    x, rest = torch.zeros_like(target), target.clone()
    scaled = rest / diagonal
    towards, square = scaled.clone(), float((rest * scaled).sum())
    enough = _RESIDUAL * square
    for _ in range(min(4 * target.numel(), 400)):
        if square <= enough:
            break
        image = product(towards)
        bent = float((towards * image).sum())
        if bent <= 0:
            break
        x += square / bent * towards
        rest -= square / bent * image
        scaled = rest / diagonal
        square, before = float((rest * scaled).sum()), square
        towards = scaled + square / before * towards
    return x
