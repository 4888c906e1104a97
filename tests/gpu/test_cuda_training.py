"""Training on a CUDA device: precision, resume to the same bits, memory that runs out, NCCL."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from runs import train_interrupted
from tiny import changed

from medcalib.config import RunConfig, dump
from medcalib.engine.checkpoint import Checkpoints
from medcalib.engine.predict import predict
from medcalib.engine.train import train


@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
def test_resumes_to_the_same_bits(
    on_cuda: RunConfig, tmp_path: Path, precision: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = changed(on_cuda, precision=precision)
    straight = train(config, tmp_path / "straight")
    train_interrupted(4, config, tmp_path / "stopped", monkeypatch)
    resumed = train(config, tmp_path / "stopped", resume=True)
    volatile = {"seconds": 0}
    assert {**resumed, **volatile} == {**straight, **volatile}
    first, second = (Checkpoints(tmp_path / run).load_last()["model"] for run in ("straight", "stopped"))
    assert all(torch.equal(first[key], second[key]) for key in first)
    lines = [json.loads(line) for line in (tmp_path / "straight" / "metrics.jsonl").read_text().splitlines()]
    assert all(0 < line["loss"] < 5 for line in lines)


@pytest.mark.parametrize("loss", ["crac", "nacl", "ml1_ace_soft"])
def test_trains_by_the_kernels(on_cuda: RunConfig, tmp_path: Path, loss: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MEDCALIB_BACKEND", "triton")
    config = RunConfig.model_validate({**on_cuda.model_dump(), "loss": loss})
    line = train(config, tmp_path / "run")
    assert line["skipped_steps"] == 0
    index = predict(tmp_path / "run", tmp_path / "predictions", device="cuda", weights="last")
    assert not index["refused"]


LITTLE_MEMORY = """
import sys, torch
torch.cuda.set_per_process_memory_fraction(1e-4)
from medcalib.cli import main
main()
"""


def test_out_of_memory_says_what_to_change(on_cuda: RunConfig, hearts: Path, tmp_path: Path) -> None:
    """In a process of its own: what other tests have left in the allocator's cache may be enough memory."""
    (tmp_path / "config.yaml").write_text(dump(changed(on_cuda, batch_size=64)))
    command = [sys.executable, "-c", LITTLE_MEMORY, "train", str(tmp_path / "config.yaml")]
    command += ["--data", str(hearts), "--out", str(tmp_path / "run")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode != 0
    assert "train.batch_size" in done.stderr
    assert "Traceback" not in done.stderr


def test_nccl_rank(on_cuda: RunConfig, hearts: Path, tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text(dump(on_cuda))
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node=1", "-m", "medcalib", "train"]
    command += [str(tmp_path / "config.yaml"), "--data", str(hearts), "--out", str(tmp_path / "run")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, env=dict(os.environ))
    assert done.returncode == 0, done.stderr[-3000:]
    alone = train(on_cuda, tmp_path / "alone")
    line = json.loads((tmp_path / "run" / "metrics.jsonl").read_text().splitlines()[-1])
    assert line["loss"] == pytest.approx(alone["loss"], rel=1e-5)
