"""Certain and wrong predictions of every method."""

from __future__ import annotations

import pytest
import torch

from medcalib import losses


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("classes", [2, 4])
@pytest.mark.parametrize("name", losses.names())
def test_loss_and_gradient_are_finite(name: str, classes: int, dtype: torch.dtype) -> None:
    """Logits of -2000, 0 and 2000, many of them tied, right and wrong: all probabilities round to 0, 1 or shares."""
    generator = torch.Generator().manual_seed(0)
    levels = torch.randint(-1, 2, (2, classes, 4, 4, 4), generator=generator)
    logits = (2000 * levels).to(dtype).requires_grad_()
    labels = torch.randint(0, classes, (2, 4, 4, 4), generator=generator)
    loss = losses.build(name, classes)(logits, labels)
    (gradient,) = torch.autograd.grad(loss, logits)
    assert loss.isfinite()
    assert gradient.isfinite().all()
