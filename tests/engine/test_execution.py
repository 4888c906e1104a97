"""How the network runs: precision and memory format by device, compiled networks, and what stays the same bits."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from runs import assert_same_runs, train_interrupted
from tiny import changed
from torch import nn

from medcalib.config import RunConfig
from medcalib.engine import execution
from medcalib.engine.checkpoint import Checkpoints
from medcalib.engine.execution import (
    autocast,
    images_on_device,
    is_channels_last,
    placed,
    precision_of,
    reproducible,
)
from medcalib.engine.inference import window_logits
from medcalib.engine.optimization import build_optimizer, load_optimizer
from medcalib.engine.run import load_model
from medcalib.engine.train import train

CPU, CUDA = torch.device("cpu"), torch.device("cuda", 0)


@pytest.mark.parametrize(("supported", "expected"), [(True, "bf16"), (False, "fp32")])
def test_auto_is_bf16_only_where_the_gpu_computes_it(
    tiny: RunConfig, monkeypatch: pytest.MonkeyPatch, supported: bool, expected: str
) -> None:
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: supported or including_emulation)
    assert tiny.train.precision == "auto"
    assert (precision_of(tiny.train, CPU), precision_of(tiny.train, CUDA)) == ("fp32", expected)
    assert not autocast(tiny.train, CPU)._enabled
    for fixed in ("fp32", "bf16"):
        assert precision_of(changed(tiny, precision=fixed).train, CUDA) == fixed


def test_auto_puts_channels_last_on_cuda_only(tiny: RunConfig) -> None:
    assert (is_channels_last(tiny.train, CPU), is_channels_last(tiny.train, CUDA)) == (False, True)
    assert not is_channels_last(changed(tiny, channels_last=False).train, CUDA)
    config = changed(tiny, channels_last=True).train
    model = placed(nn.Conv3d(3, 5, 3), config, CPU)
    images = images_on_device(torch.rand(2, 3, 4, 5, 6), config, CPU)
    for tensor in (next(model.parameters()), images, model(images)):
        assert tensor.is_contiguous(memory_format=torch.channels_last_3d)
        assert not tensor.is_contiguous()


def test_auto_on_the_cpu_is_fp32_to_the_bit(tiny: RunConfig, tmp_path: Path) -> None:
    train(changed(tiny, epochs=1), tmp_path / "auto")
    train(changed(tiny, epochs=1, precision="fp32", channels_last=False, deterministic=False), tmp_path / "fp32")
    a, b = (Checkpoints(tmp_path / run).load_last()["model"] for run in ("auto", "fp32"))
    assert all(torch.equal(a[key], b[key]) for key in a)


@pytest.mark.parametrize("loss", ["ce", "crac"])
def test_channels_last_trains_to_the_same_weights_but_for_rounding(tiny: RunConfig, tmp_path: Path, loss: str) -> None:
    config = tiny.model_copy(update={"loss": type(tiny).model_validate(tiny.model_dump() | {"loss": loss}).loss})
    config = changed(config, optimizer="sgd", lr=1e-2, momentum=0.5)
    train(config, tmp_path / "plain")
    train(changed(config, channels_last=True), tmp_path / "last")
    a, b = (Checkpoints(tmp_path / run).load_last()["model"] for run in ("plain", "last"))
    for key, value in a.items():
        torch.testing.assert_close(b[key], value, rtol=1e-3, atol=1e-5)


def test_validation_logits_are_float32_and_contiguous_whatever_runs(tiny: RunConfig) -> None:
    seen: list[torch.dtype] = []

    class Watched(nn.Conv3d):
        def forward(self, windows: torch.Tensor) -> torch.Tensor:
            logits = super().forward(windows)
            seen.append(logits.dtype)
            return logits

    model, image = Watched(1, 4, 1), torch.rand(1, 20, 18, 5)
    logits = window_logits(model, image, changed(tiny, precision="bf16", channels_last=True), CPU)
    assert set(seen) == {torch.bfloat16}
    assert (logits.dtype, logits.is_contiguous()) == (torch.float32, True)
    torch.testing.assert_close(logits, window_logits(model, image, tiny, CPU), rtol=2e-2, atol=2e-2)


def compile_with(backend: str, monkeypatch: pytest.MonkeyPatch) -> None:
    original = torch.compile
    monkeypatch.setattr(torch, "compile", lambda model, **options: original(model, backend=backend, **options))


@pytest.mark.parametrize("backend", ["eager", pytest.param("inductor", marks=pytest.mark.slow)])
def test_compiled_and_plain_runs_continue_each_other(
    tiny: RunConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, backend: str
) -> None:
    """Weights have the same names; with a backend that changes no kernel they are the same bits."""
    compile_with(backend, monkeypatch)
    config, calls = changed(tiny, epochs=2), []
    original = execution.compiled
    monkeypatch.setattr("medcalib.engine.train.compiled", lambda *args: calls.append(original(*args)) or calls[-1])
    train(config, tmp_path / "plain")
    run = tmp_path / "run"
    train_interrupted(4, changed(config, compile=True), run, monkeypatch)
    train(config, run, resume=True)
    assert [hasattr(network, "_orig_mod") for network in calls] == [False, True, False]
    model, _ = load_model(run, config, CPU, "last")
    assert not any("_orig_mod" in key for key in model.state_dict())
    if backend == "eager":
        assert_same_runs(tmp_path / "plain", run)


def test_a_checkpoint_of_another_device_and_layout_is_continued(tiny: RunConfig) -> None:
    """Fused steps want their moments laid out as their weights; whether steps are fused is this machine's choice."""
    plain = nn.Conv3d(2, 3, 3)
    before = build_optimizer(tiny.train, plain.parameters())
    plain(torch.rand(1, 2, 4, 4, 4)).sum().backward()
    before.step()
    saved = before.state_dict()
    assert saved["param_groups"][0]["fused"] is None
    other = placed(nn.Conv3d(2, 3, 3), changed(tiny, channels_last=True).train, CPU)
    fused = torch.optim.AdamW(other.parameters(), fused=True)
    load_optimizer(fused, saved)
    assert fused.param_groups[0]["fused"] is True
    assert fused.param_groups[0]["lr"] == tiny.train.lr
    moment = fused.state[other.weight]["exp_avg"]
    assert moment.stride() == other.weight.stride() != plain.weight.stride()
    assert torch.equal(moment, before.state[plain.weight]["exp_avg"])
    other(torch.rand(1, 2, 4, 4, 4)).sum().backward()
    fused.step()
    assert fused.state[other.weight]["step"].item() == 2


@pytest.mark.parametrize("deterministic", [True, False])
def test_cudnn_is_left_as_it_was(tiny: RunConfig, deterministic: bool) -> None:
    cudnn = torch.backends.cudnn
    before = cudnn.deterministic, cudnn.benchmark
    with reproducible(changed(tiny, deterministic=deterministic).train):
        assert (cudnn.deterministic, cudnn.benchmark) == (deterministic, not deterministic)
    assert (cudnn.deterministic, cudnn.benchmark) == before
