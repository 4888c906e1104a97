"""The Triton kernels: their numbers against the plain terms (interpreted, or on a CUDA device), and their machine code.

Run as a script, it compiles the kernels for an architecture and prints what they need, a line of JSON each.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor

from medcalib import losses
from medcalib.losses.multipliers import penalty_slope
from medcalib.ops import heterogeneous, neighborhood_proportions
from medcalib.ops.fused import FusedSpec, FusedStats

pytest.importorskip("triton", reason="triton is not installed: the CUDA kernels cannot be tested")

from medcalib.ops import _triton

INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"  # read when the kernels are defined: it needs a process
DEVICE = "cpu" if INTERPRETED else "cuda"
needs_device = pytest.mark.skipif(
    not INTERPRETED and not torch.cuda.is_available(), reason="no CUDA device; test_interpreted runs it on CPU"
)
slow = pytest.mark.slow
WINDOW: dict[str, Any] = {"target": "label", "penalty": "neighbor", "window": "mean", "kernel_size": (3, 3, 3)}
CRAC = FusedSpec(**WINDOW, by_region=True, factor_interior=5.0, scale=0.5)
GRANULARITIES = {
    "scalar": CRAC._replace(by_region=False, factor_boundary=5.0, scale=1.0),
    "class": CRAC._replace(by_region=False, factor_boundary=5.0, scale=1.0),
    "region": CRAC._replace(class_mean=True),
}


class Case(NamedTuple):
    """A method, and the pass that must give the same."""

    name: str
    spec: FusedSpec
    hyper: Mapping[str, Any] = MappingProxyType({})
    classes: int = 3
    shape: tuple[int, ...] = (1, 5, 3, 4)  # planes of a march and one more
    ignore: int | None = None
    dtype: torch.dtype = torch.float32
    labels: torch.dtype = torch.int64

    def padded(self, padding: str, ignore: int | None) -> Case:
        """With another padding."""
        hyper = {**self.hyper, "padding": padding}
        return self._replace(hyper=hyper, spec=self.spec._replace(padding=padding), ignore=ignore)


def case_of_margin(power: int) -> Case:
    hyper = {"margin": 4.0, "power": abs(power), "two_sided": power < 0}
    return Case("mbls", FusedSpec(target="label", penalty="margin", margin=4.0, power=power), hyper)


SMOOTH = FusedSpec(target="label", own=0.9 + 0.1 / 3, rest=0.1 / 3)
CALS = FusedSpec(target="label", penalty="cals", margin=5.0, inverse_norm=0.2, lam_min=1e-6, lam_max=1e6)
ACLS = FusedSpec(target="label", penalty="acls", margin=3.0, weight_top=1.0, weight_rest=0.1)
NACL, CRACS = Case("nacl", FusedSpec(**WINDOW)), Case("crac", CRAC._replace(lam_min=1e-6, lam_max=1e6))
CASES = {
    "ce": Case("ce", FusedSpec(target="label"), classes=2, shape=(2, 5, 3, 4), labels=torch.uint8),
    "label_smoothing": Case("label_smoothing", SMOOTH, ignore=255),
    "mbls": case_of_margin(1),
    "mbls_power_2": case_of_margin(2),
    "mbls_two_sided": case_of_margin(-2),
    "cals": Case("cals_alm", CALS, {"margin": 5.0}, ignore=-1, labels=torch.int16),
    "acls": Case("acls", ACLS, {"margin": 3.0}),
    "nacl": NACL._replace(shape=(1, 3, 13, 21), classes=2),  # more voxels than a tile
    "nacl_l2": NACL._replace(hyper={"distance": "l2"}, classes=4, dtype=torch.bfloat16),
    "nacl_2d": NACL._replace(spec=NACL.spec._replace(kernel_size=(3, 3)), shape=(2, 5, 4)),
    "crac": CRACS.padded("background", None)._replace(shape=(2, 5, 3, 4), labels=torch.int32),
    "crac_replicate": CRACS.padded("replicate", 255)._replace(labels=torch.uint8, classes=4),
    "crac_zeros": CRACS.padded("zeros", 7),
    "crac_14": CRACS._replace(classes=14, ignore=255, shape=(1, 2, 3, 4)),
    "crac_ignored_background": CRACS.padded("background", 0),
}
SLOW = {
    "cals_many": Case("cals_alm", CALS, {"margin": 5.0}, classes=64, shape=(1, 2, 2, 3)),
    "acls_many": Case("acls", ACLS, {"margin": 3.0}, classes=19, shape=(1, 2, 2, 3)),
    "mbls_many": case_of_margin(1)._replace(classes=17, shape=(1, 2, 2, 3), dtype=torch.float16),
    "label_smoothing_many": Case("label_smoothing", SMOOTH, {"mode": "others"}, classes=18, shape=(1, 2, 2, 3)),
    "crac_many": CRACS._replace(classes=20, ignore=255, shape=(1, 3, 3, 3)),
    "crac_5": CRACS._replace(spec=CRACS.spec._replace(kernel_size=(5, 5, 5)), hyper={"kernel_size": 5}, classes=6),
    "crac_flat": CRACS._replace(spec=CRACS.spec._replace(kernel_size=(1, 5, 3)), hyper={"kernel_size": (1, 5, 3)}),
    "region_many": CRACS._replace(spec=GRANULARITIES["region"], hyper={"granularity": "region"}, classes=17),
    **{
        f"{case.name}_{padding}_{ignore}": case.padded(padding, ignore)
        for case in (NACL, CRACS)
        for padding in ("background", "replicate", "zeros")
        for ignore in (None, 0, 255)
    },
    **{kind: CRACS._replace(spec=spec, hyper={"granularity": kind}) for kind, spec in GRANULARITIES.items()},
}
SLOW["label_smoothing_many"] = SLOW["label_smoothing_many"]._replace(spec=SMOOTH._replace(own=0.9, rest=0.1 / 17))


def inputs(case: Case) -> tuple[Tensor, Tensor]:
    """Logits, half of them whole numbers so that some tie and some equal their target, and labels in a few pieces."""
    generator = torch.Generator().manual_seed(1)
    logits = 4 * torch.randn(case.shape[0], case.classes, *case.shape[1:], generator=generator)
    logits = torch.where(torch.rand(logits.shape, generator=generator) < 0.5, logits.round(), logits)
    labels = torch.randint(0, case.classes, case.shape, generator=generator)
    labels[:, : case.shape[1] // 2 + 1] = 1
    if case.ignore is not None:
        labels[torch.rand(case.shape, generator=generator) < 0.2] = case.ignore
        logits[:, 0][labels == case.ignore] = torch.inf
        logits[:, 1][labels == case.ignore] = torch.nan
    return logits.to(case.dtype), labels


def objective_and_multipliers(case: Case) -> tuple[losses.Objective, Tensor, Tensor]:
    """The plain terms with multipliers that differ, and these as (2, C)."""
    objective = losses.build(case.name, case.classes, **case.hyper, ignore_index=case.ignore)
    lam = torch.full((2, case.classes), float(case.hyper.get("distance") != "l2"), dtype=torch.float64)
    rho = 2 * (1 - lam)
    for name, buffer in objective.named_buffers():
        if name.endswith((".lam", ".rho")):
            buffer.copy_(torch.linspace(0.2, 1.5, len(buffer), dtype=torch.float64).flip(0))
            regions = buffer.reshape(2, -1) if case.spec.by_region else buffer.expand(2, -1)
            (lam if name.endswith("lam") else rho).copy_(regions)
    return objective, lam, rho


def expected_stats(case: Case, logits: Tensor, labels: Tensor, lam: Tensor, rho: Tensor) -> FusedStats:
    """The sums, from their definitions."""
    spec, classes, valid = case.spec, case.classes, labels != (-99 if case.ignore is None else case.ignore)
    flat = torch.zeros(FusedStats.size(classes), dtype=torch.float64)
    flat[0], flat[2 + 4 * classes :] = valid.sum(), torch.bincount(labels[valid], minlength=classes)
    stats, boundary = FusedStats.unpack(flat), torch.ones_like(valid)
    if spec.penalty == "neighbor":
        size, padding = case.spec.kernel_size, case.spec.padding
        if spec.by_region:
            boundary = heterogeneous(labels, size, padding, case.ignore)
            flat[1] = (boundary & valid).sum()
        tau = neighborhood_proportions(labels, classes, size, "mean", padding, case.ignore, dtype=torch.float64)
        factor = torch.where(boundary, spec.factor_boundary, spec.factor_interior).unsqueeze(1)
        h = (factor * tau - logits).abs()
    elif spec.penalty == "cals":
        h = (logits.amax(1, keepdim=True) - logits - spec.margin) * spec.inverse_norm
    else:
        return stats
    if spec.class_mean:
        h = h.mean(1, keepdim=True)
    for region, inside in enumerate((valid & boundary, valid & ~boundary)):
        for k in range(h.shape[1]):
            chosen = h[:, k][inside]
            slope = penalty_slope(chosen, lam[region, k], rho[region, k], "phr").clamp(spec.lam_min, spec.lam_max)
            stats.slope[region, k], stats.violation[region, k] = slope.sum(), chosen.sum()
    return stats


@needs_device
@pytest.mark.parametrize("case", [*CASES.values(), *(pytest.param(c, marks=slow) for c in SLOW.values())],
                         ids=[*CASES, *SLOW])  # fmt: skip
def test_equals_the_plain_terms(case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MEDCALIB_BACKEND", "reference")
    logits, labels = inputs(case)
    objective, lam, rho = objective_and_multipliers(case)
    double = logits.double().requires_grad_()
    loss = objective(double, labels)
    (gradient,) = torch.autograd.grad(loss, double)
    weights = torch.tensor([1.0, [*objective.weights.values()][-1]], device=DEVICE)
    arguments = [t.to(DEVICE) for t in (logits, labels.to(case.labels), lam, rho)]
    *parts, stats = _triton.forward(*arguments, case.spec, case.ignore, True)
    found = _triton.backward(*weights, *arguments, stats, case.spec, case.ignore)
    assert {part.dtype for part in parts} == {torch.float32}
    assert float(torch.stack(parts) @ weights) == pytest.approx(loss.item(), rel=1e-5)
    assert found.dtype == logits.dtype
    rounding = torch.finfo(case.dtype).eps if case.dtype != torch.float32 else 0.0  # the interpreter truncates
    error = (found.cpu().double() - gradient).abs()
    assert (error <= rounding * gradient.abs() + 1e-5 * gradient.abs().max()).all()
    torch.testing.assert_close(
        tuple(FusedStats.unpack(stats.cpu())),
        tuple(expected_stats(case, double.detach(), labels, lam, rho)),
        rtol=1e-5,
        atol=1e-5,
    )


@needs_device
def test_equals_the_plain_terms_without_statistics() -> None:
    case = CASES["nacl_2d"]
    arguments = [t.to(DEVICE) for t in (*inputs(case), *objective_and_multipliers(case)[1:])]
    *parts, stats = _triton.forward(*arguments, case.spec, case.ignore, True)
    *same, few = _triton.forward(*arguments, case.spec, case.ignore, False)
    torch.testing.assert_close(same, parts, rtol=1e-6, atol=0)
    assert few.shape == stats.shape
    assert few[0] == stats[0]
    again = _triton.forward(*arguments, case.spec, case.ignore, False)
    assert all(torch.equal(a, b) for a, b in zip(again, (*same, few), strict=True))


@needs_device
def test_equals_the_plain_terms_in_what_is_not_a_number() -> None:
    for case in (CASES["crac_zeros"], CASES["mbls"], CASES["acls"], CASES["cals"]):
        logits, labels = inputs(case)
        labels[0, 0, 0, 0], logits[0, 2, 0, 0, 0] = 1, torch.nan
        multipliers = objective_and_multipliers(case)[1:]
        arguments = [t.to(DEVICE) for t in (logits, labels, *multipliers)]
        *parts, _ = _triton.forward(*arguments, case.spec, case.ignore, False)
        assert torch.stack(parts).isnan().all(), case.name


@needs_device
def test_equals_the_plain_terms_where_nothing_is_valid() -> None:
    case = CASES["crac_zeros"]
    logits, labels = inputs(case)
    arguments = [t.to(DEVICE) for t in (logits, torch.full_like(labels, 7), *objective_and_multipliers(case)[1:])]
    *parts, stats = _triton.forward(*arguments, case.spec, case.ignore, True)
    assert not torch.stack(parts).any()
    assert not stats.any()
    ones = torch.ones(2, device=DEVICE)
    assert not _triton.backward(*ones, *arguments, stats, case.spec, case.ignore).any()


def interpret(marks: str) -> None:
    """Run the tests of the numbers in a process that interprets the kernels."""
    command = [sys.executable, "-m", "pytest", __file__, "-q", "-k", "equals_the_plain_terms", "-m", marks]
    done = subprocess.run(command, env=os.environ | {"TRITON_INTERPRET": "1"}, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout
    assert " skipped" not in done.stdout.splitlines()[-1]


@pytest.mark.skipif(INTERPRETED, reason="this is what it starts")
def test_interpreted() -> None:
    interpret("not slow")


@slow
@pytest.mark.skipif(INTERPRETED, reason="this is what it starts")
def test_interpreted_slow() -> None:
    interpret("slow")


@pytest.mark.parametrize(
    ("changes", "served"),
    [
        ({}, True),
        ({"target": "none"}, True),
        ({"target": "window"}, False),
        ({"window": "svls"}, False),
        ({"kernel_size": (3, 3)}, False),
        ({"kernel_size": (7, 7, 7)}, False),
        ({"kernel_size": (1, 3, 5)}, True),
    ],
)
def test_what_is_served(changes: dict[str, Any], served: bool) -> None:
    spec = CRAC._replace(**changes)
    assert _triton.supports(spec, 4, torch.float32, 3) is served
    assert not _triton.supports(spec, 4, torch.float64, 3)
    assert not _triton.supports(spec, 65, torch.float32, 3)


COMPILED = {
    "nacl": NACL.spec,
    "crac": CRAC,
    "mbls": case_of_margin(1).spec,
    "cals": CALS,
    "acls": ACLS,
    "nacl_5": NACL.spec._replace(kernel_size=(5, 5, 5)),
    "nacl_flat": NACL.spec._replace(kernel_size=(1, 3, 3)),  # nothing to carry from plane to plane
    "region": GRANULARITIES["region"]._replace(padding="replicate"),
}


class Code(NamedTuple):
    """What a compiled kernel needs."""

    kernel: str
    registers: int
    stack: int
    instructions: float  # of a thread, for each of its voxels


def compiled(architecture: int, names: str, classes: int, *options: str) -> list[Code]:
    """The kernels of some passes, forward and backward, from another process: Triton is told of another device."""
    command = [sys.executable, __file__, str(architecture), names, str(classes), *options]
    with tempfile.TemporaryDirectory() as cache:
        environment = os.environ | {"TRITON_CACHE_DIR": cache}
        done = subprocess.run(command, env=environment, capture_output=True, text=True)
    codes = [Code(*json.loads(line)) for line in done.stdout.splitlines()]
    assert len(codes) == 2 * len(names.split(",")), done.stderr
    return codes


@pytest.mark.parametrize("architecture", [80, 90])
def test_machine_code(architecture: int) -> None:
    for code in compiled(architecture, "nacl,crac", 4):
        assert code.stack == 0, code
        assert code.registers <= 128, code
        assert code.instructions <= 300, code


@slow
@pytest.mark.parametrize("architecture", [80, 90])
@pytest.mark.parametrize("options", [(), ("int64",), ("bfloat16",), ("float16",), ("ignoring",)], ids=str)
def test_machine_code_of_four_classes(architecture: int, options: tuple[str, ...]) -> None:
    codes = compiled(architecture, ",".join(COMPILED), 4, *options)
    for name, code in zip([name for name in COMPILED for _ in range(2)], codes, strict=True):
        large = name == "nacl_5"  # with ignored voxels its counts take two words, and two registers go to memory
        assert code.stack <= (8 if large else 0), (name, code)
        assert code.registers <= (160 if large else 128), (name, code)
        assert code.instructions <= (780 if large else 320), (name, code)


@slow
@pytest.mark.parametrize("architecture", [80, 90])
@pytest.mark.parametrize("classes", [2, 6, 7, 14, 16, 17, 64])
def test_machine_code_of_other_numbers_of_classes(architecture: int, classes: int) -> None:
    """At most two registers go to memory, in crac with 14 and nacl with 17 classes on sm_80."""
    for code in compiled(architecture, "nacl,crac,mbls,cals", classes):
        assert code.stack <= 8, code
        assert code.registers <= 176, code


def compile_passes(architecture: int, names: str, classes: int, *options: str) -> None:
    """Print the `Code` of the kernels, as the launcher would compile them for a large volume."""
    from triton.backends.compiler import GPUTarget
    from triton.runtime import driver

    class Absent:
        """A driver without a device."""

        get_current_device = get_current_stream = staticmethod(lambda *_: 0)
        get_current_target = staticmethod(lambda: GPUTarget("cuda", architecture, 32))

    def launch(kernel: Any, programs: int, arguments: tuple[Any, ...]) -> None:
        code = kernel.warmup(*arguments, grid=(programs,), num_warps=_triton.WARPS, enable_fp_fusion=False)
        if kernel is not _triton.kernels.finish_kernel:
            steps, plan = arguments[-4], arguments[-1]
            voxels = steps * plan.block.value / (32 * _triton.WARPS)
            print(json.dumps(measured(code, voxels, steps)), flush=True)  # noqa: T201

    driver.set_active(Absent())
    _triton.launch = launch
    given = set(options) - {"ignoring"}
    logits_type = next((getattr(torch, n) for n in given if "float" in n), torch.float32)
    labels_type = next((getattr(torch, n) for n in given if "int" in n), torch.uint8)
    logits = torch.empty(2, classes, 128, 128, 128, dtype=logits_type, device="meta")
    labels = torch.empty(2, 128, 128, 128, dtype=labels_type, device="meta")
    lam = torch.empty(2, classes, dtype=torch.float64, device="meta")
    ignore = 255 if "ignoring" in options else None
    for name in names.split(","):
        ce, penalty, stats = _triton.forward(logits, labels, lam, lam, COMPILED[name], ignore, False)
        _triton.backward(ce, penalty, logits, labels, lam, lam, stats, COMPILED[name], ignore)


def measured(code: Any, voxels: float, steps: int) -> Code:
    """Registers, stack, and instructions: the march as often as it steps, loops before it twice, the rest once."""
    from triton import knobs

    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(code.asm["cubin"])
        file.flush()
        tool = [knobs.nvidia.cuobjdump.path, "--dump-resource-usage", "-sass", file.name]
        text = subprocess.run(tool, capture_output=True, text=True, check=True).stdout
    lines = [(int(at, 16), what) for at, what in re.findall(r"/\*([0-9a-f]{4,})\*/\s+(.*?);", text)]
    jumps = [(int(to, 16), at) for at, what in lines for to in re.findall(r"\bBRA\b.*?(0x[0-9a-f]+)", what)]
    loops = sorted(sum(to <= at <= end for at, _ in lines) for to, end in jumps if to < end)
    total = len(lines) + (loops[-1] * (steps - 1) + sum(loops[:-1]) if loops else 0)
    registers, stack = (int(re.search(rf"{key}:(\d+)", text)[1]) for key in ("REG", "STACK"))  # type: ignore[index]
    return Code(code.metadata.name, registers, stack, round(total / voxels, 1))


if __name__ == "__main__":
    compile_passes(int(sys.argv[1]), sys.argv[2], int(sys.argv[3]), *sys.argv[4:])
