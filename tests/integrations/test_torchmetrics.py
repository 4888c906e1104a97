"""The Metric behaves as torchmetrics' do, on one process and on two, and says what `CalibrationCounts` say."""

from __future__ import annotations

import pickle
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers import leave_group
from test_pooled import SHARDS, batch
from torch import distributed as dist
from torch import multiprocessing

from medcalib.metrics import CalibrationCounts


def make(**options: Any) -> Any:
    pytest.importorskip("torchmetrics")
    from medcalib.integrations.torchmetrics import PooledCalibrationError

    return PooledCalibrationError(3, **options)


def test_update_forward_reset_and_saving() -> None:
    probs, labels = batch(4)
    metric = make(bins=10)
    assert metric(probs[:1], labels[:1]) == CalibrationCounts.from_probs(probs[:1], labels[:1]).ece(10)
    metric.update(probs[1:], labels[1:])
    assert metric.compute() == CalibrationCounts.from_probs(probs, labels).ece(10)
    assert pickle.loads(pickle.dumps(metric)).compute() == metric.compute()  # noqa: S301 - as Lightning does
    assert metric.half().tables.dtype == torch.int64
    metric.reset()
    metric.update(probs[:2], labels[:2])
    assert metric.compute() == CalibrationCounts.from_probs(probs[:2], labels[:2]).ece(10)


def test_it_can_stand_in_a_collection_and_be_saved_with_a_model() -> None:
    collection = pytest.importorskip("torchmetrics").MetricCollection(
        {"ece": make(), "classwise": make(score="classwise_ece")}
    )
    probs, labels = batch(2)
    collection.update(probs, labels)
    counts = CalibrationCounts.from_probs(probs, labels)
    found = collection.compute()
    assert found["ece"] == counts.ece()
    assert torch.equal(found["classwise"], counts.classwise_ece())
    kept = make()
    kept.persistent(True)
    kept.update(probs, labels)
    other = make()
    other.persistent(True)
    other.load_state_dict(kept.state_dict())
    assert torch.equal(other.tables, kept.tables)


def one_rank(rank: int, store: str, shards: tuple[slice, slice], out: str) -> None:
    dist.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=2)
    probs, labels = batch()
    metric = make()
    for values, reference in zip(probs[shards[rank]], labels[shards[rank]], strict=True):
        metric.update(values[None], reference[None])
    torch.save(metric.compute(), f"{out}/{rank}.pt")
    leave_group()


@pytest.mark.filterwarnings("ignore:The ``compute`` method")
def test_two_ranks_equal_one_process_bit_for_bit(tmp_path: Path) -> None:
    pytest.importorskip("torchmetrics")
    arguments = (str(tmp_path / "store"), SHARDS["unequal"], str(tmp_path))
    multiprocessing.spawn(one_rank, arguments, nprocs=2)  # type: ignore[no-untyped-call]
    alone = make()
    alone.update(*batch())
    for rank in (0, 1):
        assert torch.load(tmp_path / f"{rank}.pt", weights_only=True) == alone.compute()


@pytest.mark.fault(74)
def test_without_torchmetrics_one_line_says_what_to_install() -> None:
    code = "import sys; sys.modules['torchmetrics'] = None; import medcalib.integrations.torchmetrics"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert found.returncode == 1
    assert found.stderr.endswith(
        'torchmetrics is not installed; install it with: pip install "medcalib[torchmetrics]"\n'
    )
