"""What `medcalib datasets` and `medcalib losses` list."""

from __future__ import annotations

from typing import Any

from medcalib import losses
from medcalib.config import load
from medcalib.config.bundled import bundled
from medcalib.data.layouts import LAYOUTS


def list_datasets() -> dict[str, list[dict[str, Any]]]:
    """Shipped configs and known layouts."""
    configs = []
    for name, path in bundled().items():
        data = load(path).data
        configs.append({"name": name, "layout": data.layout.name, "classes": list(data.class_names), "path": str(path)})
    layouts = [{"name": name, "about": _first_line(layout)} for name, layout in LAYOUTS.items()]
    return {"configs": configs, "layouts": layouts}


def list_losses() -> list[dict[str, Any]]:
    """Every method with its terms, hyperparameters and reference."""
    return [
        {
            "name": name,
            "terms": list(recipe.terms),
            "defaults": {key: p.default for key, p in losses.parameters(name).items()},
            "equation": recipe.equation,
            "cite": list(recipe.cite),
        }
        for name, recipe in losses.RECIPES.items()
    ]


def _first_line(function: Any) -> str:
    return (function.__doc__ or "").strip().split("\n", 1)[0]
