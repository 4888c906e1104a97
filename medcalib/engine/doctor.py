"""`medcalib doctor`: what is installed, which device and kernels are used, and what will get in the way."""

from __future__ import annotations

import os
import platform
import shutil
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

import medcalib
from medcalib.ops import backend

PACKAGES = (
    "torch",
    "monai",
    "numpy",
    "scipy",
    "nibabel",
    "SimpleITK",
    "pydantic",
    "ruamel.yaml",
    "typer",
    "tqdm",
    "safetensors",
)
EXTRAS = {
    "report": ("matplotlib", "jinja2"),
    "tensorboard": ("tensorboard",),
    "notebook": ("jupyterlab", "ipyniivue"),
}
_SMALL_SHM = 1 << 30


def doctor() -> dict[str, Any]:
    """Facts by name; `warnings` lists what a user should know, in sentences."""
    shm = Path("/dev/shm")  # noqa: S108 - the place, not a temporary file
    shared = shutil.disk_usage(shm).total if shm.is_dir() else None
    facts: dict[str, Any] = {
        "medcalib": medcalib.__version__,
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.machine()}",
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "packages": {name: version(name) for name in PACKAGES},
        "extras": {extra: all(version(p) for p in packages) for extra, packages in EXTRAS.items()},
        "torch_threads": torch.get_num_threads(),
        "devices": [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())] or ["cpu"],
        "loss_backend": {d: backend.described(d) for d in ("cpu", *["cuda"] * torch.cuda.is_available())},
        "shared_memory_bytes": shared,
    }
    facts["warnings"] = _warnings(facts)
    return facts


def version(package: str) -> str | None:
    """Installed version of a package, None if absent."""
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _warnings(facts: dict[str, Any]) -> list[str]:
    found = []
    shared = facts["shared_memory_bytes"]
    if shared is not None and shared < _SMALL_SHM:
        found.append(
            f"shared memory holds {shared >> 20} MiB: loader workers will die with a bus error; start the container "
            "with --shm-size=8g, or set train.workers to 0"
        )
    for extra, packages in EXTRAS.items():
        missing = [package for package in packages if version(package) is None]
        if missing:
            found.append(f'{" and ".join(missing)}: not installed; pip install "medcalib[{extra}]"')
    return found
