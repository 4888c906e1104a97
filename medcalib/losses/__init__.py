"""Losses: terms, and published methods as recipes of terms.

    objective = build("mbls", num_classes=4, margin=5)      # cross-entropy + 0.1 * margin penalty
    loss = objective(logits, labels)                        # logits (B, C, *S), labels (B, *S)

What a name means everywhere in here: `logits` (B, C, *S) float, S the axes of space in array order; `labels` (B, *S)
integers in 0..C-1; `valid` (B, *S) bool, the voxels that count; `images` (B, M, *S), read by terms that weigh voxels by
intensity; `num_classes` C, background included; `ignore_index` the label of voxels that count nowhere; `kernel_size`
the edge of a window in voxels, odd, one number or one an axis; `padding` what lies beyond the border: "background"
(class 0), "replicate" (the nearest voxel) or "zeros" (no class). A constructor raises ValueError for an option out of
range.

To add one: a term in its own file, and in registry.py one line in TERMS and for a published method one in RECIPES.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterable
from typing import Any

from medcalib.losses.cross_entropy import CrossEntropy
from medcalib.losses.multipliers import Multipliers
from medcalib.losses.objective import Objective, WeightedTerm
from medcalib.losses.reduction import valid_mean
from medcalib.losses.registry import RECIPES, TERMS, Recipe
from medcalib.losses.state import RunningSums
from medcalib.losses.term import Term
from medcalib.options import check_option, suggestion

__all__ = [
    "RECIPES",
    "TERMS",
    "CrossEntropy",
    "Multipliers",
    "Objective",
    "Recipe",
    "RunningSums",
    "Term",
    "WeightedTerm",
    "build",
    "build_terms",
    "names",
    "parameters",
    "term_parameters",
    "valid_mean",
]


def names() -> list[str]:
    """The methods that `build` knows."""
    return list(RECIPES)


def parameters(name: str) -> dict[str, inspect.Parameter]:
    """Hyperparameters of a method: those of its terms' constructors, and `weight` if it has several terms.

    Raises ValueError for an unknown name.
    """
    recipe = _recipe(name)
    found: dict[str, inspect.Parameter] = {}
    for term in recipe.terms:
        found |= term_parameters(term)
    if len(recipe.terms) > 1:
        kind = inspect.Parameter.KEYWORD_ONLY
        found["weight"] = inspect.Parameter("weight", kind, default=recipe.weight, annotation=float)
    return found | {key: found[key].replace(default=default) for key, default in recipe.defaults.items()}


def term_parameters(term: str) -> dict[str, inspect.Parameter]:
    """Keyword-only constructor parameters of one term, annotations resolved: its hyperparameters.

    Raises KeyError for an unknown term.
    """
    signature = inspect.signature(TERMS[term], eval_str=True)
    return {key: p for key, p in signature.parameters.items() if p.kind is p.KEYWORD_ONLY}


def build(name: str, num_classes: int, *, ignore_index: int | None = None, **hyperparameters: Any) -> Objective:
    """The objective of a published method, for `num_classes` classes (background included).

    Hyperparameters are those of `parameters(name)`; each goes to every term that has it. Raises ValueError for
    an unknown name, an unknown hyperparameter or a value out of range.
    """
    recipe, known = _recipe(name), parameters(name)
    unknown = sorted(hyperparameters.keys() - known.keys())
    if unknown:
        raise ValueError(f"{name} has no hyperparameter {', '.join(unknown)}; it has {', '.join(known) or 'none'}")
    chosen = {"weight": recipe.weight, **recipe.defaults, **hyperparameters}
    parts = []
    for position, term in enumerate(recipe.terms):
        own = {key: value for key, value in chosen.items() if key in term_parameters(term)}
        last = position == len(recipe.terms) - 1
        parts.append((term, chosen["weight"] if last else 1.0, own))
    return build_terms(parts, num_classes, ignore_index=ignore_index)


def build_terms(
    parts: Iterable[tuple[str, float, dict[str, Any]]], num_classes: int, *, ignore_index: int | None = None
) -> Objective:
    """An objective from `parts`: (term name, weight >= 0, its hyperparameters), in the order of the sum.

    Raises ValueError for an unknown term or hyperparameter, a value out of range, a term that stands twice, and two
    terms that are likelihoods.
    """
    parts = list(parts)
    if not all(isinstance(part, (tuple, list)) and len(part) == 3 for part in parts):
        raise ValueError('expected terms as (name, weight, hyperparameters), such as ("margin", 0.1, {"margin": 5.0})')
    check_option("num_classes", num_classes, int)
    if num_classes < 2:
        raise ValueError(f"num_classes must be at least 2 (background included), got {num_classes}")
    unknown = [term for term, _, _ in parts if term not in TERMS]
    if unknown:
        raise ValueError(f"unknown term {unknown[0]!r}; {suggestion(unknown[0], TERMS)}")
    likelihoods = [term for term, _, _ in parts if TERMS[term].likelihood]
    if len(likelihoods) > 1:
        raise ValueError(f"{' and '.join(likelihoods)} are both likelihoods; keep one of them")
    for term, _, own in parts:
        _check_options(term, own)
    terms = [
        WeightedTerm(term, _checked_weight(weight), TERMS[term](**_with_classes(term, own, num_classes)))
        for term, weight, own in parts
    ]
    return Objective(terms, num_classes, ignore_index=ignore_index)


def _with_classes(term: str, own: dict[str, Any], num_classes: int) -> dict[str, Any]:
    takes = "num_classes" in inspect.signature(TERMS[term]).parameters
    return own | {"num_classes": num_classes} if takes else own


def _check_options(term: str, own: dict[str, Any]) -> None:
    """A value of a wrong type would fail late, or pass for another: "no" is true."""
    known = term_parameters(term)
    for key, value in own.items():
        if key not in known:
            raise ValueError(f"{term} has no option {key}; it has {', '.join(known) or 'none'}")
        check_option(key, value, known[key].annotation)


def _checked_weight(weight: float) -> float:
    check_option("weight", weight, float)
    if weight < 0:
        raise ValueError(f"weight must be at least 0, got {weight}")
    return weight


def _recipe(name: str) -> Recipe:
    if name not in RECIPES:
        raise ValueError(f"unknown loss {name!r}; {suggestion(name, RECIPES)}")
    return RECIPES[name]
