"""Which tests are asked about which module: the file of the same name, else those named here."""

from __future__ import annotations

from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[2]
PACKAGES = ("losses", "metrics")
_LEFT_OUT = {"__init__", "citations", "definitions"}  # tables of names, and texts

_OTHERS = {  # relative to tests/
    "losses/reduction": ("losses/test_cross_entropy.py", "losses/test_brier.py", "losses/test_cals.py"),
    "losses/registry": (
        "losses/test_objective.py",
        "losses/test_state.py",
        "losses/test_[a-m]*.py",
        "losses/test_s*.py",
    ),
    "losses/term": ("losses/test_objective.py", "losses/test_state.py"),
    "losses/objective": ("losses/test_objective.py", "losses/test_fusion.py"),
    "losses/multipliers": ("losses/test_multipliers.py", "losses/test_state.py"),
    "metrics/calibration": ("metrics/test_calibration.py", "metrics/test_laws.py"),
    "metrics/channels": ("metrics/test_score.py",),
    "metrics/checks": ("metrics/test_calibration.py", "metrics/test_score.py"),
    "metrics/means": ("metrics/test_summary.py",),
    "metrics/numbers": ("metrics/test_summary.py", "metrics/test_score.py"),
    "metrics/products": ("metrics/test_score.py",),
    "metrics/ranks": ("metrics/test_method_ranks.py",),
    "metrics/signed_rank": ("metrics/test_paired.py", "metrics/test_over_seeds.py"),
    "metrics/slabs": ("metrics/test_score.py", "metrics/test_laws.py"),
    "metrics/squared": ("metrics/test_squared.py", "metrics/test_laws.py"),
    "metrics/stream": ("metrics/test_score.py",),
    "metrics/thresholded": ("metrics/test_thresholded.py", "metrics/test_laws.py"),
}


def modules() -> list[Path]:
    """The modules of the two packages that hold numbers, sorted."""
    found = (path for package in PACKAGES for path in (REPOSITORY / "medcalib" / package).rglob("*.py"))
    return sorted(path for path in found if path.stem not in _LEFT_OUT)


def dotted(module: Path) -> str:
    """`medcalib.losses.ace` of a path."""
    return ".".join(module.relative_to(REPOSITORY).with_suffix("").parts)


def tests_of(module: Path) -> tuple[str, ...]:
    """Paths of test files, relative to the repository."""
    name = module.relative_to(REPOSITORY / "medcalib").with_suffix("").as_posix()
    if "/protocols/" in name:
        return ("tests/metrics/test_protocols.py",)
    package, stem = name.split("/")
    found = _OTHERS.get(name, (f"{package}/test_{stem}.py",))
    if "def fused(" in module.read_text("utf-8") and stem not in ("term", "fusion"):
        found = (*found, "losses/test_fusion.py")
    tests = REPOSITORY / "tests"
    paths = dict.fromkeys(path for pattern in found for path in sorted(tests.glob(pattern)))
    return tuple(str(path.relative_to(REPOSITORY)) for path in paths)
