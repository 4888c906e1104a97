"""What an installation has: the native library where there is a compiler, plain torch where there is none."""

from __future__ import annotations

import ctypes
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import zipfile
from pathlib import Path

import pytest
from helpers import REPOSITORY

import medcalib
from medcalib.ops import _native

SOURCES = REPOSITORY / "medcalib/ops/csrc"
PROBLEM = (SOURCES / "problem.h").read_text(encoding="utf-8")
LIBRARY = f"_medcalib_native{_native._SUFFIX}"
NO_COMPILER = {"CC": shutil.which("false") or "false", "CXX": shutil.which("false") or "false"}
COMPILER = shutil.which(os.environ.get("CXX") or "c++") or shutil.which("false") or "false"
needs_compiler = pytest.mark.skipif(
    subprocess.run([COMPILER, "--version"], capture_output=True, check=False).returncode != 0,
    reason="no C++ compiler (CXX, or c++) at hand",
)


def build(folder: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """`pip wheel` in a copy of what an installation needs; the wheel goes to folder/wheels."""
    copy = folder / "copy"
    for name in ("configs", "medcalib"):
        shutil.copytree(REPOSITORY / name, copy / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("LICENSE", "README.md", "pyproject.toml"):
        shutil.copy(REPOSITORY / name, copy)
    return subprocess.run(
        [sys.executable, "-m", "pip", "wheel", ".", "--no-deps", "--quiet", "--wheel-dir", folder / "wheels"],
        cwd=copy,
        env=os.environ | environment,
        capture_output=True,
        text=True,
        check=False,
    )


def unpacked(folder: Path) -> tuple[str, set[str]]:
    """The name of the only wheel and of the files in it, which go to folder/installed."""
    (wheel,) = (folder / "wheels").iterdir()
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(folder / "installed")
        return wheel.name, set(archive.namelist())


def use(folder: Path) -> str:
    """What the package in folder/installed says of its library; no .pth file leads back to the checkout."""
    script = (
        "from medcalib.config.bundled import bundled; from medcalib.losses import citations; import medcalib.report\n"
        "from medcalib.ops import _native; import sys\n"
        "sys.stdout.write(f'{_native.__file__}|{sorted(bundled())}|{_native.LIB is not None}|{_native.WHY}')"
    )
    paths = os.pathsep.join([str(folder / "installed"), sysconfig.get_path("purelib"), sysconfig.get_path("platlib")])
    done = subprocess.run(
        [sys.executable, "-S", "-c", script],
        cwd=folder,
        env=os.environ | {"PYTHONPATH": paths},
        capture_output=True,
        text=True,
        check=True,
    )
    module, configs, loaded, why = done.stdout.split("|")
    assert Path(module).is_relative_to(folder / "installed")
    assert configs == str(sorted(path.stem for path in (REPOSITORY / "configs").glob("*.yaml")))
    assert (loaded == "True") == (why == "")
    return why


def check_shipped(names: set[str]) -> None:
    """Every module and bundled file of the checkout is in the wheel, sources of the library are not."""
    expected = {path.relative_to(REPOSITORY).as_posix() for path in (REPOSITORY / "medcalib").rglob("*.py")}
    expected |= {f"medcalib/configs/{path.name}" for path in (REPOSITORY / "configs").iterdir()}
    expected |= {"medcalib/py.typed", "medcalib/losses/references.bib"}
    templates = (REPOSITORY / "medcalib" / "report" / "templates").iterdir()
    expected |= {path.relative_to(REPOSITORY).as_posix() for path in templates}
    assert expected <= names
    assert not [name for name in names if "csrc" in name]


def test_the_version_is_the_last_of_the_changelog_and_the_one_to_cite() -> None:
    released = re.findall(r"^## \[(\d\S*)\] - (\S+)$", (REPOSITORY / "CHANGELOG.md").read_text("utf-8"), re.MULTILINE)
    citation = (REPOSITORY / "CITATION.cff").read_text("utf-8")
    cited = re.findall(r"^(?:version|date-released): (\S+)$", citation, re.MULTILINE)
    assert (medcalib.__version__, released[0][1]) == released[0] == tuple(cited)


@pytest.mark.slow
@needs_compiler
def test_with_a_compiler_one_wheel_serves_every_python(tmp_path: Path) -> None:
    done = build(tmp_path, MEDCALIB_NATIVE="1")
    assert done.returncode == 0, done.stderr
    name, names = unpacked(tmp_path)
    assert re.fullmatch(r"medcalib-[0-9.]+-py3-none-(?!any)\w+\.whl", name)
    check_shipped(names)
    assert f"medcalib/ops/{LIBRARY}" in names
    assert use(tmp_path) == ""


@pytest.mark.slow
def test_without_a_compiler_the_wheel_is_pure(tmp_path: Path) -> None:
    done = build(tmp_path, MEDCALIB_NATIVE="", **NO_COMPILER)
    assert done.returncode == 0, done.stderr
    name, names = unpacked(tmp_path)
    assert name.endswith("-py3-none-any.whl")
    check_shipped(names)
    assert not [name for name in names if "_medcalib_native" in name]
    assert "not built" in use(tmp_path)


@pytest.mark.slow
def test_whoever_asks_for_the_library_gets_the_error_of_its_build(tmp_path: Path) -> None:
    done = build(tmp_path, MEDCALIB_NATIVE="1", **NO_COMPILER)
    assert done.returncode != 0
    assert "compiler" in done.stderr


@needs_compiler
def test_this_installation_has_the_library() -> None:
    # a build that fails is no error for a user, so it must be one here
    assert _native.LIB is not None, f"{_native.WHY}; MEDCALIB_NATIVE=1 pip install -e . shows the error"


@pytest.mark.parametrize(("structure", "header"), [(_native.Problem, "problem.h"), (_native.ScoreProblem, "score.h")])
def test_the_structure_is_that_of_the_header(structure: type[ctypes.Structure], header: str) -> None:
    types = {"double": ctypes.c_double, "int32_t": ctypes.c_int32, "int64_t": ctypes.c_int64}
    body = re.sub(r"//.*", "", (SOURCES / header).read_text("utf-8").split("typedef struct {")[1].split("}")[0])
    expected = []
    for kind, names in re.findall(r"(?:const )?(\w+) ([^;]+);", body):
        for name, length in re.findall(r"(\*?\w+)(?:\[(\d+)\])?", names):
            single = ctypes.c_void_p if name.startswith("*") else types[kind]
            expected.append((name.lstrip("*"), single * int(length) if length else single))
    assert list(structure._fields_) == expected
    assert f"#define MEDCALIB_ABI {_native.ABI}\n" in PROBLEM


def test_a_missing_library_has_a_reason(tmp_path: Path) -> None:
    lib, why = _native._load([str(tmp_path)])
    assert lib is None
    assert "not built" in why


def test_a_broken_library_has_a_reason(tmp_path: Path) -> None:
    (tmp_path / LIBRARY).write_text("no library")
    lib, why = _native._load([str(tmp_path)])
    assert lib is None
    assert "cannot be loaded" in why


@pytest.mark.skipif(_native.LIB is None, reason="the native library is not built")
def test_a_library_of_another_version_has_a_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    built = _native.ABI
    monkeypatch.setattr(_native, "ABI", 99)
    assert _native.LIB is not None
    lib, why = _native._load([str(Path(_native.LIB._name).parent)])
    assert lib is None
    assert f"ABI {built} instead of 99" in why
