"""Losses: terms, and published methods as recipes of terms.

    objective = build("mbls", num_classes=4, margin=5)      # cross-entropy + 0.1 * margin penalty
    loss = objective(logits, labels)                        # logits (B, C, *S), labels (B, *S)

To add one: a term in its own file, one line in TERMS, and for a published method one in RECIPES.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterable
from typing import Any, NamedTuple

from medcalib.losses.cross_entropy import CrossEntropy, LabelSmoothing
from medcalib.losses.dice import DiceLoss
from medcalib.losses.focal import FocalLoss
from medcalib.losses.margin import MarginPenalty
from medcalib.losses.objective import Objective, WeightedTerm
from medcalib.losses.term import Term

__all__ = ["RECIPES", "TERMS", "Objective", "Recipe", "Term", "build", "build_terms", "names", "parameters"]


class Recipe(NamedTuple):
    """A published method: its terms in order, the default weight of the last one, and where it is from.

    All terms but the last have weight 1. `weight` is a hyperparameter of the method when there are several.
    """

    terms: tuple[str, ...]
    weight: float
    reference: str


TERMS: dict[str, type[Term]] = {
    "cross_entropy": CrossEntropy,
    "label_smoothing": LabelSmoothing,
    "focal": FocalLoss,
    "dice": DiceLoss,
    "margin": MarginPenalty,
}

RECIPES: dict[str, Recipe] = {
    "ce": Recipe(("cross_entropy",), 1.0, "cross-entropy"),
    "dice": Recipe(("dice",), 1.0, "Milletari et al. 2016, V-Net"),
    "dice_ce": Recipe(("cross_entropy", "dice"), 1.0, "Isensee et al. 2021, nnU-Net"),
    "label_smoothing": Recipe(("label_smoothing",), 1.0, "Szegedy et al. 2016, Rethinking Inception"),
    "focal": Recipe(("focal",), 1.0, "Lin et al. 2017; Mukhoti et al. 2020"),
    "mbls": Recipe(("cross_entropy", "margin"), 0.1, "Liu et al. 2022, MbLS; Murugesan et al. 2023"),
}


def names() -> list[str]:
    """The methods that `build` knows."""
    return list(RECIPES)


def parameters(name: str) -> dict[str, inspect.Parameter]:
    """Hyperparameters of a method: those of its terms' constructors, and `weight` if it has several terms."""
    recipe = _recipe(name)
    found: dict[str, inspect.Parameter] = {}
    for term in recipe.terms:
        found |= term_parameters(term)
    if len(recipe.terms) > 1:
        kind = inspect.Parameter.KEYWORD_ONLY
        found["weight"] = inspect.Parameter("weight", kind, default=recipe.weight, annotation=float)
    return found


def term_parameters(term: str) -> dict[str, inspect.Parameter]:
    """Keyword-only constructor parameters of one term, annotations resolved: its hyperparameters."""
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
    weight = _checked_weight(hyperparameters.pop("weight", recipe.weight))
    parts = []
    for position, term in enumerate(recipe.terms):
        own = {key: value for key, value in hyperparameters.items() if key in term_parameters(term)}
        last = position == len(recipe.terms) - 1
        parts.append((term, weight if last else 1.0, own))
    return build_terms(parts, num_classes, ignore_index=ignore_index)


def build_terms(
    parts: Iterable[tuple[str, float, dict[str, Any]]], num_classes: int, *, ignore_index: int | None = None
) -> Objective:
    """An objective from (term name, weight, hyperparameters); two likelihoods are refused."""
    parts = list(parts)
    likelihoods = [term for term, _, _ in parts if TERMS[term].likelihood]
    if len(likelihoods) > 1:
        raise ValueError(f"{' and '.join(likelihoods)} are both likelihoods; keep one of them")
    terms = [
        WeightedTerm(term, _checked_weight(weight), TERMS[term](**_with_classes(term, own, num_classes)))
        for term, weight, own in parts
    ]
    return Objective(terms, num_classes, ignore_index=ignore_index)


def _with_classes(term: str, own: dict[str, Any], num_classes: int) -> dict[str, Any]:
    takes = "num_classes" in inspect.signature(TERMS[term]).parameters
    return own | {"num_classes": num_classes} if takes else own


def _checked_weight(weight: float) -> float:
    if not 0 <= weight < float("inf"):
        raise ValueError(f"weight must be finite and not negative, got {weight}")
    return weight


def _recipe(name: str) -> Recipe:
    if name not in RECIPES:
        raise ValueError(f"unknown loss {name!r}; known: {', '.join(RECIPES)}")
    return RECIPES[name]
