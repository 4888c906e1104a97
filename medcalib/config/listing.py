"""What `medcalib datasets`, `losses` and `calibrators` list."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from typing import Any

from medcalib import calibrators, losses
from medcalib.config import load
from medcalib.config.bundled import bundled
from medcalib.data.layouts import LAYOUTS
from medcalib.errors import ConfigError
from medcalib.losses import citations
from medcalib.options import suggestion


def list_datasets() -> dict[str, list[dict[str, Any]]]:
    """Shipped configs and known layouts."""
    configs = []
    for name, path in bundled().items():
        data = load(path).data
        configs.append({"name": name, "layout": data.layout.name, "classes": list(data.class_names), "path": str(path)})
    layouts = [{"name": name, "about": _first_line(layout)} for name, layout in LAYOUTS.items()]
    return {"configs": configs, "layouts": layouts}


def list_losses(wanted: Sequence[str] = ()) -> list[dict[str, Any]]:
    """Methods (all of them unless named) with terms, equation, hyperparameters and reference."""
    unknown = [name for name in wanted if name not in losses.RECIPES]
    if unknown:
        raise ConfigError(f"unknown loss {unknown[0]!r}; {suggestion(unknown[0], losses.RECIPES)}")
    return [
        {
            "name": name,
            "terms": list(recipe.terms),
            "equation": recipe.equation,
            "defaults": {key: p.default for key, p in losses.parameters(name).items()},
            "reference": "; ".join(citations.short(key) for key in recipe.cite),
            "note": recipe.note,
            "cite": list(recipe.cite),
        }
        for name, recipe in losses.RECIPES.items()
        if not wanted or name in wanted
    ]


def list_calibrator(name: str) -> dict[str, Any]:
    """A calibrator: formula, options with defaults, source, and whether predictions stay."""
    if name not in calibrators.CALIBRATORS:
        raise ConfigError(f"{name!r} is no calibrator and no file; {suggestion(name, calibrators.names())}")
    method = calibrators.build(name, 2)
    return {
        "name": name,
        "formula": method.formula,
        "options": {key: p.default for key, p in calibrators.parameters(name).items()},
        "predictions": "stay" if method.keeps_argmax else "may change",
        "source": method.reference,
        "about": inspect.getdoc(type(method)),
    }


def _first_line(function: Any) -> str:
    return (function.__doc__ or "").strip().split("\n", 1)[0]
