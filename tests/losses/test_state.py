"""State of terms that learn: its type, its way through DDP, files, and logits that are not finite."""

from __future__ import annotations

import copy
import io
import logging
from pathlib import Path
from typing import Any

import pytest
import torch
from cases import random_batch, tensors
from helpers import leave_group
from torch import Tensor, multiprocessing, nn
from torch import distributed as dist

from medcalib import losses

METHODS: dict[str, dict[str, Any]] = {
    "cals_alm": {"margin": 1.0},
    "cals_hr": {"margin": 1.0},
    "crac": {},
    "adafocal": {"rate": 12.0},
    "mbls": {"margin": 1.0, "schedule": "add", "schedule_rate": 0.5},
}


def one_epoch(objective: losses.Objective, scale: float = 1.0) -> None:
    logits, labels = random_batch(3, (4, 6, 5, 4))
    objective.observe(scale * logits, labels)
    objective.update()


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_a_parent_in_half_precision_leaves_the_state_in_double(name: str, dtype: torch.dtype) -> None:
    parent = nn.ModuleDict({"objective": losses.build(name, 3, **METHODS[name]), "net": nn.Linear(2, 2)}).to(dtype)
    objective = losses.build(name, 3, **METHODS[name])
    for each in (parent["objective"], objective):
        for scale in (1.0, 2.0):
            one_epoch(each, scale)  # type: ignore[arg-type]
    assert parent["net"].weight.dtype == dtype
    torch.testing.assert_close(tensors(parent["objective"]), tensors(objective), rtol=0, atol=0)  # type: ignore[arg-type]


@pytest.mark.parametrize("name", METHODS)
def test_what_was_observed_is_saved_in_the_middle_of_an_epoch(name: str) -> None:
    """Through a file that is read without executing anything, and through a copy."""
    logits, labels = random_batch(3, (4, 6, 5, 4))
    straight = losses.build(name, 3, **METHODS[name])
    straight.observe(logits[:3], labels[:3])
    file = io.BytesIO()
    torch.save(straight.state_dict(), file)
    file.seek(0)
    resumed = losses.build(name, 3, **METHODS[name])
    resumed.load_state_dict(torch.load(file, weights_only=True))
    copied = copy.deepcopy(straight)
    for objective in (straight, resumed, copied):
        objective.observe(logits[3:], labels[3:])
        objective.update()
    torch.testing.assert_close(tensors(resumed), tensors(straight), rtol=0, atol=0)
    torch.testing.assert_close(tensors(copied), tensors(straight), rtol=0, atol=0)


@pytest.mark.parametrize("name", ["cals_alm", "cals_hr", "crac", "adafocal"])
@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_logits_that_are_not_finite_move_nothing(name: str, value: float, caplog: pytest.LogCaptureFixture) -> None:
    logits, labels = random_batch(3, (4, 6, 5, 4))
    objective = losses.build(name, 3, **METHODS[name])
    one_epoch(objective)
    before = {key: t.clone() for key, t in objective.named_buffers()}
    broken = logits.detach().clone()
    broken[0, 0, 0, 0, 0] = value
    with caplog.at_level(logging.WARNING):
        objective.observe(broken, labels)
        objective.update()
    assert "hold NaN or infinity" in caplog.text
    torch.testing.assert_close(dict(objective.named_buffers()), before, rtol=0, atol=0)
    one_epoch(objective, 2.0)
    assert objective(logits, labels).isfinite()
    assert any(not torch.equal(t, before[key]) for key, t in objective.named_buffers())


@pytest.mark.parametrize("name", ["cals_alm", "cals_hr", "crac", "adafocal"])
def test_what_was_observed_can_be_discarded(name: str) -> None:
    logits, labels = random_batch(3, (4, 6, 5, 4))
    objective = losses.build(name, 3, **METHODS[name])
    before = {key: t.clone() for key, t in tensors(objective).items()}
    objective.observe(logits, labels)
    objective.discard()
    objective.update()
    torch.testing.assert_close(tensors(objective), before, rtol=0, atol=0)


class Wrapped(nn.Module):
    """A network that holds its objective, as a LightningModule does."""

    def __init__(self, objective: losses.Objective) -> None:
        super().__init__()
        self.net, self.objective = nn.Conv3d(3, 3, 1, dtype=torch.float64), objective
        with torch.no_grad():
            self.net.weight.copy_(torch.eye(3).reshape(3, 3, 1, 1, 1))
            self.net.bias.zero_()  # type: ignore[union-attr]

    def forward(self, images: Tensor) -> Tensor:
        return self.net(images)


def one_rank(rank: int, store: str, out: str) -> None:
    dist.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=2)
    logits, labels = random_batch(3, (4, 6, 5, 4))
    shard = slice(0, 3) if rank == 0 else slice(1, 4)
    states = {}
    for name, hyper in METHODS.items():
        module = Wrapped(losses.build(name, 3, **hyper))
        parallel = nn.parallel.DistributedDataParallel(module)
        for image, label in zip(logits[shard].detach(), labels[shard], strict=True):
            found = parallel(image[None])  # copies buffers from rank 0
            module.objective.observe(found, label[None])
        module.objective.update()
        states[name] = tensors(module.objective)
    torch.save(states, f"{out}/{rank}.pt")
    leave_group()


def test_inside_a_module_that_ddp_wraps(tmp_path: Path) -> None:
    multiprocessing.spawn(one_rank, (str(tmp_path / "store"), str(tmp_path)), nprocs=2)  # type: ignore[no-untyped-call]
    logits, labels = random_batch(3, (4, 6, 5, 4))
    for rank in (0, 1):
        states = torch.load(tmp_path / f"{rank}.pt", weights_only=True)
        for name, hyper in METHODS.items():
            alone = losses.build(name, 3, **hyper)
            for shard in (slice(0, 3), slice(1, 4)):
                alone.observe(logits[shard].detach(), labels[shard])
            alone.update()
            torch.testing.assert_close(states[name], tensors(alone), rtol=1e-12, atol=1e-15)
