"""`medcalib doctor`: what is installed, which device and kernels are used, and what will get in the way."""

from __future__ import annotations

import platform
from importlib import metadata
from typing import Any

import torch

import medcalib
from medcalib.engine.shared_memory import FIX, SMALL, shared_memory
from medcalib.engine.surroundings import cores
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
    "wandb": ("wandb",),
    "mlflow": ("mlflow-skinny",),
    "notebook": ("jupyterlab", "ipyniivue"),
}


def doctor() -> dict[str, Any]:
    """Facts by name; `warnings` lists what a user should know, in sentences."""
    shared = shared_memory()
    facts: dict[str, Any] = {
        "medcalib": medcalib.__version__,
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.machine()}",
        "cores": cores(),
        "packages": {name: version(name) for name in PACKAGES} | {"torch": str(torch.__version__)},  # with its build
        "extras": {extra: all(version(p) for p in packages) for extra, packages in EXTRAS.items()},
        "torch_threads": torch.get_num_threads(),
        "devices": [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())] or ["cpu"],
        "loss_backend": {d: backend.described(d) for d in ("cpu", *["cuda"] * torch.cuda.is_available())},
        "shared_memory_bytes": shared and shared.total,
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
    if shared is not None and shared < SMALL:
        found.append(f"shared memory holds {shared >> 20} MiB, which is little for loader workers; {FIX}")
    for extra, packages in EXTRAS.items():
        missing = [package for package in packages if version(package) is None]
        if missing:
            found.append(f'{" and ".join(missing)}: not installed; pip install "medcalib[{extra}]"')
    return found
