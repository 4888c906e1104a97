"""What a run ran on: versions, source, host and command. Neither paths nor names of users or hosts."""

from __future__ import annotations

import os
import platform
import re
import shutil
import subprocess
import sys
from collections.abc import Sequence
from contextlib import suppress
from importlib import metadata
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch

import medcalib
from medcalib import distributed
from medcalib.ops import backend

REMOVED = "…"
_PACKAGES = ("monai", "numpy")
_VALUED = ("--loss", "--device", "--set")  # options whose values say what was done, not where


def cores() -> int:
    """Processor cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def surroundings(device: torch.device) -> dict[str, Any]:
    """Facts by name; `null` for what cannot be found out."""
    cuda = device.type == "cuda"
    return {
        "command": command(sys.argv),
        "versions": versions(),
        "source": source(Path(medcalib.__file__).parent),
        "host": {
            "system": f"{platform.system()} {platform.machine()}",
            "cpu": _cpu(),
            "cores": cores(),
            "device": torch.cuda.get_device_name(device) if cuda else device.type,
        },
        "ranks": distributed.ranks(),
        "threads": torch.get_num_threads(),
        "loss_backend": backend.described(device.type),
        "deterministic": {
            "algorithms": torch.are_deterministic_algorithms_enabled(),
            "cudnn": torch.backends.cudnn.deterministic,
            "cudnn_benchmark": torch.backends.cudnn.benchmark,
            "tf32_matmul": torch.backends.cuda.matmul.allow_tf32,
        },
    }


def versions() -> dict[str, str | None]:
    """Versions of what decides the numbers."""
    found: dict[str, str | None] = {"medcalib": medcalib.__version__, "python": platform.python_version()}
    # torch with its build, as in 2.11.0+cu130: installed metadata may leave it out
    found["torch"] = str(torch.__version__)
    found |= {name: metadata.version(name) for name in _PACKAGES}
    cudnn = torch.backends.cudnn.version() if torch.version.cuda else None  # type: ignore[no-untyped-call]
    return found | {"cuda": torch.version.cuda, "cudnn": cudnn and str(cudnn), "driver": _driver()}


def command(argv: Sequence[str]) -> list[str] | None:
    """The words of the command, with `…` for every value that could say where or who.

    The values of --loss, --device and --set stay but for those of `data` and `split`. None where it was not the command
    line that called.
    """
    if Path(argv[0]).name.removesuffix(".exe") not in ("medcalib", "__main__.py"):
        return None
    kept = []
    for before, argument in pairwise(argv):
        name, equals, value = argument.partition("=")
        if name.startswith("--"):
            kept += [name, _value(value) if name in _VALUED else REMOVED] if equals else [name]
        elif before in _VALUED:
            kept.append(_value(argument))
        else:
            kept.append(argument if not kept and re.fullmatch("[a-z]+", argument) else REMOVED)
    return kept


def _value(text: str) -> str:
    key, equals, _ = text.partition("=")
    if not key.startswith(("data", "split")) and not re.search(r"[/\\~]", text):
        return text
    return f"{key}={REMOVED}" if equals and not re.search(r"[/\\~]", key) else REMOVED


def source(package: Path) -> dict[str, Any] | None:
    """Git commit of a checkout, and whether tracked files differ from it; None for an installed package."""
    git = shutil.which("git")
    if git is None or not (package.parent / ".git").exists():
        return None
    with suppress(OSError, subprocess.SubprocessError):
        commit, status = (
            subprocess.run([git, "-C", str(package.parent), *words], **_RUN).stdout.strip()  # noqa: S603
            for words in (["rev-parse", "HEAD"], ["status", "--porcelain", "--untracked-files=no"])
        )
        return {"commit": commit, "dirty": bool(status)}
    return None


_RUN: Any = {"capture_output": True, "text": True, "timeout": 20, "check": True}


def _cpu() -> str | None:
    with suppress(OSError):
        found = re.search(r"^model name\s*:\s*(.+)$", Path("/proc/cpuinfo").read_text(encoding="utf-8"), re.MULTILINE)
        if found:
            return found[1].strip()
    return platform.processor() or None


def _driver() -> str | None:
    with suppress(OSError):
        return driver_of(Path("/proc/driver/nvidia/version").read_text(encoding="utf-8"))
    return None


def driver_of(text: str) -> str | None:
    """The version in what Linux tells of the NVIDIA driver: the first of its first line that has a dot."""
    found = re.search(r"Kernel Module.*?\s(\d+\.[\d.]*\d)\s", text)
    return found[1] if found else None
