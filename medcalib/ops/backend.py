"""Which implementation of the fused operations runs, and why."""

from __future__ import annotations

import importlib.util
import logging
import os
from functools import cache
from typing import Literal

from medcalib.ops import _native

Backend = Literal["reference", "native", "triton"]
VARIABLE = "MEDCALIB_BACKEND"
log = logging.getLogger(__name__)


def active(device_type: str) -> Backend:
    """The backend for tensors of a device type: native on CPU where it was built, triton on CUDA, else reference.

    The environment variable MEDCALIB_BACKEND forces one; "native" and "triton" concern their own device only.
    Raises ValueError for an unknown name and RuntimeError for one that cannot run. To torch.compile it is a constant.
    `device_type` is "cpu", "cuda" or that of another device.
    """
    return _active(device_type)


def _active(device_type: str) -> Backend:
    forced = os.environ.get(VARIABLE, "")
    if forced not in ("", "reference", "native", "triton"):
        raise ValueError(f"{VARIABLE} must be reference, native or triton, got {forced!r}")
    best: Backend = {"cpu": "native", "cuda": "triton"}.get(device_type, "reference")  # type: ignore[assignment]
    if forced == "reference" or best == "reference":
        return "reference"
    reason = missing(best)
    if not reason:
        return best
    if forced == best:
        raise RuntimeError(f"{VARIABLE}={forced}, but {reason}")
    _tell_once(reason)
    return "reference"


# what torch.compiler.assume_constant_result does, without the import of the compiler, half the time of importing losses
vars(_active)["_dynamo_marked_constant"] = True


@cache
def missing(backend: Backend) -> str:
    """Why a backend cannot run here, "" if it can."""
    if backend == "native":
        return _native.WHY
    if backend == "triton" and importlib.util.find_spec("triton") is None:
        return "triton is not installed"
    return ""


def described(device_type: str) -> str:
    """The active backend and its reason, for people. `device_type`: see `active`."""
    backend = active(device_type)
    if backend == "native" and _native.LIB is not None:
        return f"native ({_native.LIB.medcalib_isa().decode()})"
    best: Backend = "triton" if device_type == "cuda" else "native"
    reason = f"{VARIABLE} is set" if os.environ.get(VARIABLE) else missing(best)
    return backend if backend == "triton" else f"reference, plain torch ({reason})"


def instruction_sets() -> list[str]:
    """What the native library can run on this machine, best first; MEDCALIB_ISA forces one of them."""
    return [] if _native.LIB is None else _native.LIB.medcalib_isas().decode().split()


@cache
def _tell_once(reason: str) -> None:
    log.warning("losses run in plain torch, which is slower: %s", reason)
