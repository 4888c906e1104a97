"""The native CPU library, where it was built: `LIB`, or None and `WHY` in a sentence.

Built by csrc/CMakeLists.txt when the package is installed. It knows nothing of torch: addresses and numbers go in.
"""

from __future__ import annotations

import ctypes
import sys
from pathlib import Path

import torch  # noqa: F401 - first, so that its OpenMP runtime is the one that both use

ABI = 2
_NOT_BUILT = (
    "the native library was not built when medcalib was installed: "
    "install it again where there is a C++ compiler (GCC 11, Clang 12 or newer)"
)
_SUFFIX = {"darwin": ".dylib", "win32": ".dll"}.get(sys.platform, ".so")


class Problem(ctypes.Structure):
    """What one call works on: csrc/problem.h, field by field."""

    _fields_ = (
        ("logits", ctypes.c_void_p),
        ("labels", ctypes.c_void_p),
        ("lam", ctypes.c_void_p),
        ("rho", ctypes.c_void_p),
        ("stats", ctypes.c_void_p),
        ("ce", ctypes.c_void_p),
        ("penalty_value", ctypes.c_void_p),
        ("grad", ctypes.c_void_p),
        ("batch", ctypes.c_int64),
        ("classes", ctypes.c_int64),
        ("depth", ctypes.c_int64),
        ("height", ctypes.c_int64),
        ("width", ctypes.c_int64),
        ("ignore_index", ctypes.c_int64),
        ("logits_type", ctypes.c_int32),
        ("labels_type", ctypes.c_int32),
        ("has_ignore", ctypes.c_int32),
        ("want_stats", ctypes.c_int32),
        ("target", ctypes.c_int32),
        ("penalty", ctypes.c_int32),
        ("power", ctypes.c_int32),
        ("by_region", ctypes.c_int32),
        ("class_mean", ctypes.c_int32),
        ("window", ctypes.c_int32),
        ("padding", ctypes.c_int32),
        ("size", ctypes.c_int32 * 3),
        ("threads", ctypes.c_int32),
        ("own", ctypes.c_double),
        ("rest", ctypes.c_double),
        ("margin", ctypes.c_double),
        ("inverse_norm", ctypes.c_double),
        ("factor_boundary", ctypes.c_double),
        ("factor_interior", ctypes.c_double),
        ("scale", ctypes.c_double),
        ("weight_top", ctypes.c_double),
        ("weight_rest", ctypes.c_double),
        ("lam_min", ctypes.c_double),
        ("lam_max", ctypes.c_double),
        ("sigma", ctypes.c_double),
    )


class ScoreProblem(ctypes.Structure):
    """What one call of the scorer adds to its tables: csrc/score.h, field by field."""

    _fields_ = (
        *((name, ctypes.c_void_p) for name in ("values", "labels", "holds", "members")),
        *((name, ctypes.c_void_p) for name in ("n", "correct", "conf_hi", "conf_lo")),
        *((name, ctypes.c_void_p) for name in ("square", "confusion", "sums", "zero", "scratch")),
        *((name, ctypes.c_int64) for name in ("voxels", "value_stride", "holds_stride")),
        *((name, ctypes.c_int32) for name in ("channels", "classes", "regions", "composites")),
        *((name, ctypes.c_int32) for name in ("values_type", "labels_type", "logits", "grouped", "classwise")),
        ("threads", ctypes.c_int32),
    )


def _load(folders: list[str]) -> tuple[ctypes.CDLL | None, str]:
    """The library from the first of the folders that has it, or None and why; "" with a library."""
    found = [path for folder in folders if (path := Path(folder, f"_medcalib_native{_SUFFIX}")).is_file()]
    if not found:
        return None, _NOT_BUILT
    try:
        lib = ctypes.CDLL(str(found[0]))
        abi = lib.medcalib_abi()
    except (OSError, AttributeError) as error:
        return None, f"the native library cannot be loaded: {error}"
    if abi != ABI:
        return None, f"the native library {found[0]} has ABI {abi} instead of {ABI}: install medcalib again"
    lib.medcalib_isa.restype = lib.medcalib_isas.restype = ctypes.c_char_p
    for run in (lib.medcalib_forward, lib.medcalib_backward, lib.medcalib_shares):
        run.argtypes, run.restype = (ctypes.POINTER(Problem),), ctypes.c_int
    lib.medcalib_score.argtypes, lib.medcalib_score.restype = (ctypes.POINTER(ScoreProblem),), ctypes.c_int
    lib.medcalib_score_bytes.argtypes = (ctypes.POINTER(ScoreProblem),)
    lib.medcalib_score_bytes.restype = ctypes.c_int64
    return lib, ""


# the folders of this package: in an editable install the sources and the place of what was built
LIB, WHY = _load(list(sys.modules["medcalib.ops"].__path__))
