"""Two ranks with unequal shards end with the state of one process."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from cases import random_batch, tensors
from helpers import leave_group
from torch import distributed as dist
from torch import multiprocessing

from medcalib import losses

METHODS = {
    "cals_alm": {"margin": 1.0, "rho_step": 1},
    "cals_hr": {"margin": 1.0},
    "adafocal": {"rate": 12.0},
    "crac": {"rho_step": 1},
    "crac class": {"rho_step": 1, "granularity": "class"},
    "crac region": {"rho_step": 1, "granularity": "region"},
    "crac scalar": {"rho_step": 1, "granularity": "scalar"},
}
SHARDS = {"unequal": (slice(0, 3), slice(3, 4)), "one empty": (slice(0, 0), slice(0, 4))}


def run(name: str, shards: list[slice]) -> dict[str, torch.Tensor]:
    """The state after three updates, in each of which one image after the other of a shard is observed."""
    logits, labels = random_batch(3, (4, 6, 5, 4))
    labels[0, :2] = 255  # ranks differ in valid voxels too
    objective = losses.build(name.split()[0], 3, ignore_index=255, **METHODS[name])
    for scale in (1.0, 0.5, 2.0):
        for shard in shards:
            for image, label in zip(logits[shard].detach(), labels[shard], strict=True):
                objective.observe(scale * image[None], label[None])
        objective.update()
    return tensors(objective)


def one_rank(rank: int, store: str, shards: tuple[slice, slice], out: str) -> None:
    dist.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=2)
    states = {name: run(name, [shards[rank]]) for name in METHODS}
    torch.save(states, f"{out}/{rank}.pt")
    leave_group()


@pytest.mark.parametrize("shards", SHARDS)
def test_two_ranks_equal_one_process(tmp_path: Path, shards: str) -> None:
    arguments = (str(tmp_path / "store"), SHARDS[shards], str(tmp_path))
    multiprocessing.spawn(one_rank, arguments, nprocs=2)  # type: ignore[no-untyped-call]
    ranks = [torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in (0, 1)]
    for name in METHODS:
        alone = run(name, [slice(0, 4)])
        moved = losses.build(name.split()[0], 3, **METHODS[name])
        start = tensors(moved)
        assert any(not torch.equal(alone[key], start[key]) for key in alone), f"{name} did not step"
        for state in (rank[name] for rank in ranks):
            for key, value in alone.items():
                torch.testing.assert_close(state[key], value, rtol=1e-12, atol=1e-15, msg=f"{name} {key}")
        for key in alone:
            assert torch.equal(ranks[0][name][key], ranks[1][name][key]), f"ranks differ in {name} {key}"
