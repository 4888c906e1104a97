"""One fused pass gives what the terms give one by one: loss, gradient, sums for multipliers."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from cases import tensors
from torch import Tensor

from medcalib import losses
from medcalib.losses import fusion
from medcalib.ops import backend

pytestmark = pytest.mark.skipif(bool(backend.missing("native")), reason=backend.missing("native"))

METHODS: dict[str, dict[str, Any]] = {
    "ce": {},
    "label_smoothing": {},
    "label_smoothing others": {"mode": "others", "smoothing": 0.2},
    "svls": {},
    "svls background": {"padding": "background", "sigma": 2.0},
    "svls zeros": {"padding": "zeros"},
    "mbls": {"margin": 2.0, "weight": 1.0},
    "mbls square": {"margin": 2.0, "power": 2, "weight": 1.0},
    "mbls two_sided": {"margin": 2.0, "power": 2, "two_sided": True, "weight": 1.0},
    "acls": {"margin": 2.0, "weight": 1.0},
    "cals_alm": {"margin": 2.0, "rho_step": 1},
    "cals_alm raw": {"margin": 2.0, "normalize": False, "rho_step": 1},
    "nacl": {"weight": 1.0},
    "nacl l2": {"weight": 1.0, "distance": "l2", "padding": "replicate"},
    "nacl zeros": {"weight": 1.0, "padding": "zeros"},
    "nacl svls": {"weight": 1.0, "kernel": "svls", "padding": "replicate"},
    "crac": {"rho": 1.0, "rho_step": 1},
    "crac replicate": {"rho": 1.0, "rho_step": 1, "padding": "replicate"},
    "crac zeros": {"rho": 1.0, "rho_step": 1, "padding": "zeros"},
    "crac class": {"granularity": "class", "rho_step": 1},
    "crac region": {"granularity": "region", "rho": 1.0, "rho_step": 1},
    "crac scalar": {"granularity": "scalar", "rho_step": 1},
}
WINDOWS = {"svls", "nacl", "crac"}
SHAPES = [(2, 7, 9, 11), (1, 1, 5, 3), (3, 17, 19), (1, 2, 33, 37)]
ISAS = ["baseline", "avx2", "avx512"]


def batch(classes: int, shape: tuple[int, ...], *, ignored: bool, seed: int = 0) -> tuple[Tensor, Tensor]:
    """float32 logits and labels with smooth regions, a fifth of them ignored if asked."""
    generator = torch.Generator().manual_seed(seed)
    logits = 4 * torch.randn(shape[0], classes, *shape[1:], generator=generator)
    labels = torch.randint(0, classes, shape, generator=generator)
    common = torch.arange(shape[0]).reshape(-1, *[1] * (len(shape) - 1)) % classes
    labels = labels.where(torch.rand(shape, generator=generator) > 0.7, common)
    if ignored:
        labels = labels.where(torch.rand(shape, generator=generator) > 0.2, 255)
    return logits, labels


def run(objective: losses.Objective, logits: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    logits = logits.detach().requires_grad_()
    loss = objective(logits, labels)
    return loss.detach(), torch.autograd.grad(loss, logits)[0]


def stepped(name: str, classes: int, logits: Tensor, labels: Tensor, hyper: dict[str, Any]) -> losses.Objective:
    """The objective after two updates."""
    objective = losses.build(name.split()[0], classes, ignore_index=255, **hyper)
    for scale in (1.0, 1.5):
        objective.observe(scale * logits, labels)
        objective.update()
    return objective


def check(
    name: str, classes: int, logits: Tensor, labels: Tensor, monkeypatch: pytest.MonkeyPatch, **more: Any
) -> None:
    """Fused in float32 against the plain terms in float64, to the accuracy of float32."""
    hyper = METHODS[name] | more
    monkeypatch.setenv("MEDCALIB_BACKEND", "reference")
    plain = stepped(name, classes, logits.double(), labels, hyper)
    loss, gradient = run(plain, logits.double(), labels)
    monkeypatch.setenv("MEDCALIB_BACKEND", "native")
    fused = stepped(name, classes, logits, labels, hyper)
    assert all(name in _fused_names(fused, logits, labels) for name in fused.terms), "not fused"
    for key, value in tensors(plain).items():
        torch.testing.assert_close(tensors(fused)[key], value, rtol=2e-6, atol=1e-9)
    fused.load_state_dict(plain.state_dict())
    found, own = run(fused, logits, labels)
    assert found.dtype == torch.float32
    assert found.item() == pytest.approx(loss.item(), rel=1e-6, abs=1e-7)
    assert float((own - gradient).abs().max()) <= 1e-6 * float(gradient.abs().max())


def _fused_names(objective: losses.Objective, logits: Tensor, labels: Tensor) -> set[str]:
    from medcalib.losses.fusion import fused_values, passes

    terms = dict(objective.terms.items())
    groups = passes(terms, objective.num_classes, logits.device)  # type: ignore[arg-type]
    return {name for group in groups for name in fused_values(group, logits, labels, 255)[0]}


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("name", METHODS)
def test_each_method_on_each_instruction_set(name: str, isa: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Odd shapes, so that every vector width has tails; 2, 4 and 14 classes; with ignored voxels and without."""
    if isa not in backend.instruction_sets():
        pytest.skip(f"this machine has no {isa}")
    monkeypatch.setenv("MEDCALIB_ISA", isa)
    for seed, (shape, classes) in enumerate(zip(SHAPES, (4, 14, 2, 3), strict=True)):
        logits, labels = batch(classes, shape, ignored=seed % 2 == 0, seed=seed)
        check(name, classes, logits, labels, monkeypatch)


@pytest.mark.parametrize("size", [5, (1, 3, 5), (3, 1, 1), 1, 7])
@pytest.mark.parametrize("name", ["svls", "nacl", "nacl svls", "crac", "crac region"])
@pytest.mark.parametrize("padding", ["background", "replicate", "zeros"])
def test_windows_larger_than_the_volume_and_flat_ones(
    name: str, size: int | tuple[int, ...], padding: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for classes, shape in ((3, (1, 4, 6, 5)), (40, (1, 2, 3, 4))):
        logits, labels = batch(classes, shape, ignored=True)
        check(name, classes, logits, labels, monkeypatch, kernel_size=size, padding=padding)


@pytest.mark.parametrize("classes", [2, 5, 13, 64])
def test_any_class_count(classes: int, monkeypatch: pytest.MonkeyPatch) -> None:
    logits, labels = batch(classes, (1, 5, 8, 40), ignored=False)
    for name in ("ce", "mbls", "nacl", "crac"):
        check(name, classes, logits, labels, monkeypatch)


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int16, torch.int32, torch.int64])
def test_label_types_give_the_same_bits(dtype: torch.dtype) -> None:
    logits, labels = batch(4, (2, 5, 6, 7), ignored=True)
    objective = losses.build("crac", 4, ignore_index=255)
    expected, found = run(objective, logits, labels), run(objective, logits, labels.to(dtype))
    assert torch.equal(expected[0], found[0])
    assert torch.equal(expected[1], found[1])


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_logits_are_computed_in_float32_and_get_half_gradients(dtype: torch.dtype) -> None:
    """What is read is exact in float32; only the gradient is rounded, to nearest."""
    logits, labels = batch(4, (2, 5, 6, 7), ignored=True)
    for name in ("mbls", "nacl", "crac", "svls"):
        objective = losses.build(name, 4, ignore_index=255)
        half = logits.to(dtype)
        loss, gradient = run(objective, half, labels)
        single, expected = run(objective, half.float(), labels)
        assert torch.equal(loss, single)
        assert gradient.dtype == dtype
        assert torch.equal(gradient, expected.to(dtype))


def test_numbers_that_half_types_hold_survive_the_way_in_and_out() -> None:
    """float16 and bfloat16 from end to end of their range, subnormals included, as logits and as gradients."""
    labels = torch.zeros(1, 1, 1, 1, dtype=torch.uint8)
    objective = losses.build("nacl", 2, weight=1.0, distance="l2", kernel_size=1)
    for dtype in (torch.float16, torch.bfloat16):
        patterns = torch.arange(-(2**15), 2**15, 61, dtype=torch.int32).to(torch.int16).view(dtype)
        for value in patterns[patterns.float().isfinite()][:: 8 if dtype == torch.float16 else 16]:
            logits = torch.stack([value, torch.zeros((), dtype=dtype)]).reshape(1, 2, 1, 1, 1)
            single = run(objective, logits.float(), labels)
            loss, gradient = run(objective, logits, labels)
            torch.testing.assert_close(loss, single[0], rtol=0, atol=0, equal_nan=True)
            torch.testing.assert_close(gradient, single[1].to(dtype), rtol=0, atol=0, equal_nan=True)


@pytest.mark.parametrize("name", ["nacl", "crac", "svls", "cals_alm"])
def test_the_number_of_threads_changes_no_bit(name: str) -> None:
    logits, labels = batch(4, (2, 9, 20, 33), ignored=True)
    before, found = torch.get_num_threads(), []
    try:
        for threads in (1, 2, 3, 8):
            torch.set_num_threads(threads)
            objective = stepped(name, 4, logits, labels, METHODS[name])
            found.append((*run(objective, logits, labels), *tensors(objective).values()))
    finally:
        torch.set_num_threads(before)
    for other in found[1:]:
        assert all(torch.equal(a, b) for a, b in zip(found[0], other, strict=True))


@pytest.mark.parametrize("name", ["ce", "mbls", "acls", "cals_alm", "nacl", "crac", "svls"])
def test_a_nan_or_infinite_logit_is_not_hidden(name: str) -> None:
    """Training sees that the loss is not finite; at an ignored voxel it does not matter."""
    logits, labels = batch(3, (1, 3, 5, 6), ignored=False)
    objective = losses.build(name, 3, ignore_index=255)
    for place in (0, 2):
        for value in (torch.nan, torch.inf):
            broken = logits.clone()
            broken[0, place, 1, 2, 3] = value
            assert not objective(broken, labels).isfinite()
            ignored = labels.clone()
            ignored[0, 1, 2, 3] = 255
            loss, gradient = run(objective, broken, ignored)
            assert loss.isfinite()
            assert gradient.isfinite().all()


def test_large_logits_keep_their_accuracy(monkeypatch: pytest.MonkeyPatch) -> None:
    logits, labels = batch(4, (1, 6, 9, 10), ignored=False)
    for name in ("ce", "nacl", "mbls"):
        check(name, 4, logits * 100, labels, monkeypatch)


def test_ties_share_the_gradient_of_the_margin(monkeypatch: pytest.MonkeyPatch) -> None:
    logits, labels = batch(4, (1, 6, 9, 10), ignored=False)
    for name in ("mbls", "mbls two_sided", "acls", "cals_alm"):
        check(name, 4, logits.round(), labels, monkeypatch)


def test_logits_that_are_not_contiguous(monkeypatch: pytest.MonkeyPatch) -> None:
    logits, labels = batch(4, (2, 5, 6, 7), ignored=True)
    turned = logits.to(memory_format=torch.channels_last_3d)
    assert not turned.is_contiguous()
    check("crac", 4, turned, labels, monkeypatch)
    check("nacl", 4, logits.transpose(2, 4), labels.transpose(1, 3), monkeypatch)


def test_an_upstream_gradient_scales_both_parts() -> None:
    logits, labels = batch(4, (2, 5, 6, 7), ignored=True)
    logits.requires_grad_()
    parts = losses.build("nacl", 4, weight=0.7, ignore_index=255).parts(logits, labels)
    first, second = (torch.autograd.grad(part, logits, retain_graph=True)[0] for part in parts.values())
    (both,) = torch.autograd.grad(3 * parts["cross_entropy"] - 2 * parts["nacl"], logits)
    torch.testing.assert_close(both, 3 * first - 2 * second, rtol=1e-5, atol=1e-9)


def test_all_ignored_and_empty_batches_are_finite() -> None:
    for name in METHODS:
        objective = losses.build(name.split()[0], 3, ignore_index=255, **METHODS[name])
        logits = torch.randn(1, 3, 2, 3, 4)
        loss, gradient = run(objective, logits, torch.full((1, 2, 3, 4), 255))
        assert loss.item() == 0
        assert not gradient.any()
        loss, _ = run(objective, torch.zeros(0, 3, 2, 3, 4), torch.zeros(0, 2, 3, 4, dtype=torch.long))
        assert loss.isfinite()


def test_custom_sums_fuse_what_they_can(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two penalties, two windows, a term without a kernel: the same numbers as one by one."""
    logits, labels = batch(4, (1, 5, 6, 7), ignored=True)
    sums = [
        [("cross_entropy", 1.0, {}), ("nacl", 0.5, {}), ("crac", 1.0, {"rho": 1.0}), ("dice", 1.0, {})],
        [("svls", 1.0, {}), ("nacl", 0.5, {}), ("margin", 0.1, {"margin": 2.0})],
        [("focal", 1.0, {}), ("margin", 0.1, {"margin": 2.0})],
        [("svls", 1.0, {}), ("nacl", 0.5, {"kernel": "svls", "padding": "replicate"})],
    ]
    for parts in sums:
        objective = losses.build_terms(parts, 4, ignore_index=255)
        found = {}
        for name in ("reference", "native"):
            monkeypatch.setenv("MEDCALIB_BACKEND", name)
            found[name] = (*run(objective, logits, labels), objective.parts(logits, labels))
        torch.testing.assert_close(found["native"][:2], found["reference"][:2], rtol=1e-5, atol=1e-8)
        assert list(found["native"][2]) == [name for name, _, _ in parts]


@pytest.mark.parametrize("name", ["cals_alm", "crac", "crac region"])
def test_multipliers_learn_from_the_pass_that_gave_the_loss(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same bits as a pass of their own, which is not made."""
    logits, labels = batch(4, (2, 5, 6, 7), ignored=True)
    expected = stepped(name, 4, logits, labels, METHODS[name])
    objective = losses.build(name.split()[0], 4, ignore_index=255, **METHODS[name])
    calls = []
    real = fusion.fused_loss
    monkeypatch.setattr(fusion, "fused_loss", lambda *a, **k: calls.append(1) or real(*a, **k))
    for scale in (1.0, 1.5):
        sum(objective.parts(scale * logits, labels, remember=True).values())
        objective.observe_remembered()
        objective.update()
    assert len(calls) == 2
    assert all(torch.equal(value, tensors(objective)[key]) for key, value in tensors(expected).items())
