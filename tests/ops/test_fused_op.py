"""The fused loss as a torch operator: schema, tracing, compiling, second derivative, backends."""

from __future__ import annotations

import logging
import os
import subprocess
import sys

import pytest
import torch
from torch import Tensor

from medcalib import losses
from medcalib.ops import backend, neighborhood_proportions
from medcalib.ops.fused import FusedSpec, FusedStats
from medcalib.ops.fused_op import fused_loss

native = pytest.mark.skipif(bool(backend.missing("native")), reason=backend.missing("native"))
SPECS = {
    "ce": FusedSpec(target="label"),
    "svls": FusedSpec(target="window", window="svls", padding="replicate", kernel_size=(3, 3, 3)),
    "margin": FusedSpec(target="label", penalty="margin", margin=2.0),
    "crac": FusedSpec(
        target="label", penalty="neighbor", window="mean", kernel_size=(3, 3, 3), by_region=True, factor_interior=5.0
    ),
}


def inputs(dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(2, 3, 4, 5, 6, generator=generator).to(dtype).requires_grad_()
    labels = torch.randint(0, 3, (2, 4, 5, 6), generator=generator)
    lam = torch.rand(2, 3, generator=generator, dtype=torch.float64)
    return logits, labels, lam, torch.rand(2, 3, generator=generator, dtype=torch.float64)


def test_a_spec_survives_the_way_through_the_operator() -> None:
    for spec in SPECS.values():
        assert FusedSpec.restore(spec.numbers(), spec.choices()) == spec


@native
@pytest.mark.parametrize("name", SPECS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_opcheck(name: str, dtype: torch.dtype) -> None:
    spec = SPECS[name]
    arguments = (*inputs(dtype), spec.numbers(), spec.choices(), 255, True)
    # half types: the numeric gradient of opcheck needs more digits than they have
    tests = ("test_schema", "test_autograd_registration", "test_faketensor", "test_aot_dispatch_dynamic")
    torch.library.opcheck(torch.ops.medcalib.fused_loss.default, arguments, test_utils=tests)


@native
@pytest.mark.parametrize("name", SPECS)
def test_compiled_as_one_graph(name: str) -> None:
    logits, labels, lam, rho = inputs()

    def loss(z: Tensor) -> Tensor:
        ce, penalty, _ = fused_loss(z, labels, lam, rho, SPECS[name], 255)
        return 2 * ce + penalty

    compiled = torch.compile(loss, fullgraph=True, backend="aot_eager")
    expected, found = loss(logits), compiled(logits)
    assert torch.equal(found, expected)
    assert torch.equal(torch.autograd.grad(found, logits)[0], torch.autograd.grad(expected, logits)[0])


@pytest.mark.parametrize("chosen", ["reference", pytest.param("native", marks=native)])
@pytest.mark.parametrize("name", ["ce", "label_smoothing", "mbls", "acls", "cals_alm", "nacl", "crac", "svls"])
def test_an_objective_is_compiled_as_one_graph(name: str, chosen: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MEDCALIB_BACKEND", chosen)
    torch.compiler.reset()  # the backend is a constant of what is compiled
    logits, labels, *_ = inputs()
    objective = losses.build(name, 3, ignore_index=255)
    found = torch.compile(objective, fullgraph=True, backend="aot_eager")(logits, labels)
    expected = objective(logits, labels)
    torch.testing.assert_close(found, expected, rtol=1e-6, atol=0)
    gradients = [torch.autograd.grad(loss, logits)[0] for loss in (found, expected)]
    torch.testing.assert_close(*gradients, rtol=1e-5, atol=1e-8)


def test_the_mark_of_a_constant_is_torch_s() -> None:
    """`backend` sets it itself, since torch's decorator imports the compiler."""

    def marked() -> None: ...

    marks = vars(torch.compiler.assume_constant_result(marked))
    assert marks
    assert marks.items() <= vars(backend._active).items()


def test_proportions_are_an_operator() -> None:
    labels = inputs()[1]
    arguments = (labels, 3, [3, 3, 3], "mean", "background", None, 1.0, torch.float32)
    torch.library.opcheck(torch.ops.medcalib.neighborhood_proportions.default, arguments)
    compiled = torch.compile(neighborhood_proportions, fullgraph=True, backend="aot_eager")
    assert torch.equal(compiled(labels, 3), neighborhood_proportions(labels, 3))


@native
def test_a_second_derivative_is_refused() -> None:
    logits, labels, lam, rho = inputs()
    ce, penalty, _ = fused_loss(logits, labels, lam, rho, SPECS["margin"])
    (gradient,) = torch.autograd.grad(ce + penalty, logits, create_graph=True)
    with pytest.raises(RuntimeError, match="no second derivative; set MEDCALIB_BACKEND=reference"):
        gradient.sum().backward()


@native
def test_autocast_does_not_change_what_is_computed() -> None:
    logits, labels, lam, rho = inputs()
    expected = fused_loss(logits, labels, lam, rho, SPECS["crac"])
    with torch.autocast("cpu", torch.bfloat16):
        found = fused_loss(logits, labels, lam, rho, SPECS["crac"])
    assert all(torch.equal(a, b) for a, b in zip(found[:2], expected[:2], strict=True))


@native
def test_sums_by_hand() -> None:
    """Three voxels in a row, windows of three: the first two agree, the third is a boundary with the second."""
    logits = torch.tensor([[2.0, 1.0, -1.0], [0.0, 3.0, 4.0]]).reshape(1, 2, 1, 1, 3)
    labels = torch.tensor([0, 0, 1]).reshape(1, 1, 1, 3)
    lam, rho = torch.full((2, 2), 0.5, dtype=torch.float64), torch.full((2, 2), 2.0, dtype=torch.float64)
    spec = FusedSpec(
        penalty="neighbor", window="mean", kernel_size=(1, 1, 3), padding="replicate", by_region=True,
        factor_interior=5.0,
    )  # fmt: skip
    *_, flat = fused_loss(logits, labels, lam, rho, spec, want_stats=True)
    sums = FusedStats.unpack(flat)
    assert (sums.voxels.item(), sums.boundary_voxels.item()) == (3, 2)
    assert sums.class_count.tolist() == [2, 1]
    assert sums.violation[1].tolist() == pytest.approx([3.0, 0.0])
    boundary = [1 / 3 + 4 / 3, 8 / 3 + 10 / 3]
    assert sums.violation[0].tolist() == pytest.approx(boundary, rel=1e-6)
    assert sums.slope[0].tolist() == pytest.approx([2 * 0.5 + 2 * h for h in boundary], rel=1e-6)


@native
@pytest.mark.parametrize("ignore", [None, 255])
def test_a_label_out_of_range_says_so(ignore: int | None) -> None:
    logits, labels, lam, rho = inputs()
    labels[0, 0, 0, 0] = 7
    with pytest.raises(ValueError, match=r"labels must lie in 0\.\.2, got 0\.\.7"):
        fused_loss(logits, labels, lam, rho, SPECS["ce"], ignore)
    with pytest.raises(ValueError, match=r"labels must lie in 0\.\.2, got 0\.\.7"):
        neighborhood_proportions(labels, 3, ignore_index=ignore)


@native
@pytest.mark.parametrize("kernel", ["mean", "svls"])
@pytest.mark.parametrize("padding", ["background", "replicate", "zeros"])
@pytest.mark.parametrize("size", [3, 5, (1, 3, 7)])
@pytest.mark.parametrize("ignore", [None, 255])
def test_native_proportions_equal_the_reference(
    kernel: str, padding: str, size: int | tuple[int, ...], ignore: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    generator = torch.Generator().manual_seed(0)
    labels = torch.randint(0, 9, (2, 5, 6, 35), generator=generator)
    if ignore:
        labels = labels.where(torch.rand(labels.shape, generator=generator) > 0.3, ignore)
    options = {"kernel_size": size, "kernel": kernel, "padding": padding, "ignore_index": ignore, "sigma": 0.8}
    found = neighborhood_proportions(labels, 9, **options)  # type: ignore[arg-type]
    monkeypatch.setenv("MEDCALIB_BACKEND", "reference")
    expected = neighborhood_proportions(labels, 9, **options)  # type: ignore[arg-type]
    torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-7)


def test_the_backend_can_be_forced(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MEDCALIB_BACKEND", "reference")
    assert backend.active("cpu") == "reference"
    assert backend.described("cpu") == "reference, plain torch (MEDCALIB_BACKEND is set)"
    monkeypatch.setenv("MEDCALIB_BACKEND", "numba")
    with pytest.raises(ValueError, match="MEDCALIB_BACKEND must be reference, native or triton, got 'numba'"):
        backend.active("cpu")
    monkeypatch.delenv("MEDCALIB_BACKEND")
    assert backend.active("mps") == "reference"
    assert backend.active("cuda") == ("reference" if backend.missing("triton") else "triton")


def test_without_the_library_the_reference_runs_and_says_so_once(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.delenv("MEDCALIB_BACKEND", raising=False)
    monkeypatch.setattr(backend, "missing", lambda _: "there is no library")
    backend._tell_once.cache_clear()
    with caplog.at_level(logging.WARNING):
        for _ in range(2):
            loss = losses.build("nacl", 3)(*inputs()[:2])
    assert loss.isfinite()
    assert [record.message for record in caplog.records] == [
        "losses run in plain torch, which is slower: there is no library"
    ]
    monkeypatch.setenv("MEDCALIB_BACKEND", "native")
    with pytest.raises(RuntimeError, match="MEDCALIB_BACKEND=native, but there is no library"):
        losses.build("nacl", 3)(*inputs()[:2])


@native
def test_an_instruction_set_can_be_forced() -> None:
    code = "from medcalib.ops import backend; print(backend.described('cpu'))"
    found = subprocess.run(
        [sys.executable, "-c", code],
        env=os.environ | {"MEDCALIB_ISA": "baseline"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert found.stdout == "native (baseline)\n"
