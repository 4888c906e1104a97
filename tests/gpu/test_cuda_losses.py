"""Every loss on a CUDA device, by its kernels and in plain torch, against plain torch in double on the CPU."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from medcalib import losses
from medcalib.metrics import CalibrationCounts
from medcalib.ops import neighborhood_proportions

SHAPE = (2, 20, 24, 28)


def batch(classes: int, ignore: int | None) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(classes)
    logits = 5 * torch.randn(SHAPE[0], classes, *SHAPE[1:], generator=generator)
    labels = torch.zeros(SHAPE, dtype=torch.int64)
    for k in range(1, classes):
        labels[:, 2 : 2 + k % 7 + 6, k : k + 9, (2 * k) % 15 : (2 * k) % 15 + 10] = k
    if ignore is not None:
        labels[torch.rand(SHAPE, generator=generator) < 0.1] = ignore
    return logits, labels


def value_and_gradient(name: str, logits: Tensor, labels: Tensor, ignore: int | None) -> tuple[Tensor, Tensor]:
    objective = losses.build(name, logits.shape[1], ignore_index=ignore).to(logits.device)
    leaf = logits.clone().requires_grad_()
    loss = objective(leaf, labels)
    return loss.detach(), torch.autograd.grad(loss, leaf)[0]


@pytest.mark.parametrize("backend", ["triton", "reference"])
@pytest.mark.parametrize(("classes", "ignore"), [(2, None), (4, 255), (14, None)])
@pytest.mark.parametrize("name", losses.names())
def test_equals_double_on_the_cpu(
    name: str, classes: int, ignore: int | None, backend: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    logits, labels = batch(classes, ignore)
    monkeypatch.setenv("MEDCALIB_BACKEND", "reference")
    expected, gradient = value_and_gradient(name, logits.double(), labels, ignore)
    monkeypatch.setenv("MEDCALIB_BACKEND", backend)
    loss, found = value_and_gradient(name, logits.cuda(), labels.cuda(), ignore)
    again, same = value_and_gradient(name, logits.cuda(), labels.cuda(), ignore)
    assert loss.item() == pytest.approx(expected.item(), rel=1e-4)
    assert (found.cpu().double() - gradient).abs().max() <= 2e-4 * gradient.abs().max()
    assert torch.equal(loss, again)
    assert torch.equal(found, same)


@pytest.mark.parametrize("name", ["cals_alm", "cals_hr", "crac"])
def test_multipliers_learn_the_same(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    logits, labels = batch(4, None)
    states = []
    for device, backend in (("cpu", "reference"), ("cuda", "triton")):
        monkeypatch.setenv("MEDCALIB_BACKEND", backend)
        objective = losses.build(name, 4).to(device)
        objective.observe(logits.to(device), labels.to(device))
        objective.update_multipliers()
        states.append({k: v for k, v in objective.state_dict().items() if k.endswith(("lam", "rho"))})
    assert states[0]
    for key, value in states[0].items():
        torch.testing.assert_close(states[1][key].cpu(), value, rtol=1e-4, atol=1e-9)


@pytest.mark.parametrize("name", ["ce", "mbls", "nacl", "crac", "acls", "cals_alm"])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_logits_and_channels_last(name: str, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MEDCALIB_BACKEND", "triton")
    logits, labels = batch(4, None)
    half = logits.to(dtype)
    expected, gradient = value_and_gradient(name, half.float().cuda(), labels.cuda(), None)
    for given in (half.cuda(), half.cuda().contiguous(memory_format=torch.channels_last_3d)):
        loss, found = value_and_gradient(name, given, labels.cuda(), None)
        assert loss.item() == pytest.approx(expected.item(), rel=1e-5)
        assert found.dtype == dtype
        bound = 2 * torch.finfo(dtype).eps * gradient.abs() + 1e-7
        assert ((found.float() - gradient).abs() <= bound).all()


@pytest.mark.parametrize("kernel", ["mean", "svls"])
def test_proportions(kernel: str) -> None:
    _, labels = batch(5, None)
    expected = neighborhood_proportions(labels, 5, 3, kernel)
    torch.testing.assert_close(neighborhood_proportions(labels.cuda(), 5, 3, kernel).cpu(), expected)


def test_counts_are_the_same_as_on_the_cpu() -> None:
    logits, labels = batch(4, None)
    probs = logits.softmax(1)
    ours = CalibrationCounts.from_probs(probs, labels)
    theirs = CalibrationCounts.from_probs(probs.cuda(), labels.cuda())
    assert ours.ece() == theirs.ece()


def test_compiled_step(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MEDCALIB_BACKEND", "triton")
    logits, labels = (tensor.cuda() for tensor in batch(4, None))
    objective = losses.build("crac", 4).cuda()
    plain = objective(logits, labels)
    compiled = torch.compile(objective, fullgraph=True)(logits, labels)
    torch.testing.assert_close(compiled, plain, rtol=1e-5, atol=0)
