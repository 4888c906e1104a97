"""More than 2^31 numbers in one volume: addresses beyond the reach of an int32."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from medcalib import losses
from medcalib.ops import backend, neighborhood_proportions

pytestmark = [
    pytest.mark.slow,  # and 15 GB of memory
    pytest.mark.skipif(bool(backend.missing("native")), reason=backend.missing("native")),
]
PERIOD, CLASSES, SIZE = 4, 14, (600, 512, 512)
assert CLASSES * SIZE[0] * SIZE[1] * SIZE[2] > 2**31


def repeated(block: Tensor, axis: int) -> Tensor:
    """The planes of a block again and again: what is far into the volume must equal what is at its start."""
    times = [1] * block.ndim
    times[axis] = SIZE[0] // PERIOD
    return block.repeat(times)


def period(generator: torch.Generator) -> tuple[Tensor, Tensor]:
    logits = 4 * torch.randn(1, CLASSES, PERIOD, *SIZE[1:], generator=generator)
    coarse = torch.randint(0, CLASSES, (1, PERIOD, SIZE[1] // 8, SIZE[2] // 8), generator=generator)
    labels = coarse.repeat_interleave(8, 2).repeat_interleave(8, 3).to(torch.uint8)
    return logits.bfloat16(), labels


def test_a_loss_of_more_than_2_to_31_logits() -> None:
    """Windows within planes: loss and gradient of the period, the latter a mean over more voxels."""
    block, labels = period(torch.Generator().manual_seed(0))
    objective = losses.build("crac", CLASSES, kernel_size=(1, 3, 3))
    block.requires_grad_()
    expected = objective(block, labels)
    (small,) = torch.autograd.grad(expected, block)
    logits = repeated(block.detach(), 2).requires_grad_()
    loss = objective(logits, repeated(labels, 1))
    assert loss.item() == pytest.approx(expected.item(), rel=1e-6)
    (gradient,) = torch.autograd.grad(loss * (SIZE[0] // PERIOD), logits)
    for start in (0, SIZE[0] // 2, SIZE[0] - PERIOD):
        part = gradient[:, :, start : start + PERIOD]
        assert float((part.float() - small.float()).abs().max()) <= 2**-7 * float(small.abs().max())


def test_windows_across_planes_of_more_than_2_to_31_numbers() -> None:
    """Far from the first and the last plane every period has the same shares, to the last bit."""
    _, labels = period(torch.Generator().manual_seed(1))
    shares = neighborhood_proportions(repeated(labels, 1), CLASSES)
    expected = shares[:, :, PERIOD : 2 * PERIOD].clone()
    for start in range(2 * PERIOD, SIZE[0] - PERIOD, 37 * PERIOD):
        assert torch.equal(shares[:, :, start : start + PERIOD], expected)
    assert torch.equal(shares[:, :, -2 * PERIOD : -PERIOD], expected)
    torch.testing.assert_close(shares[:, :, -1].sum(1), torch.ones(1, *SIZE[1:]))
