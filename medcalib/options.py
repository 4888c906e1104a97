"""Whether a hyperparameter is of the type that its annotation says. Bounds are the constructors' business."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from difflib import get_close_matches
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin

_ALIKE = 0.7  # of two names by difflib: mbsl is mbls, epochs is not preprocess


def check_option(name: str, value: Any, annotation: Any) -> None:
    """Refuse a value of another type, a number that is not finite, a choice that does not exist: ValueError."""
    if not _fits(value, annotation):
        hint = (
            f"; give {name}.item(), a number of Python"
            if hasattr(value, "item") and _fits(_item(value), annotation)
            else ""
        )
        raise ValueError(f"{name} must be {_described(annotation)}, got {value!r}{hint}")


def nearest(name: Any, known: Iterable[str]) -> str | None:
    """The known name that may have been meant, letter case apart; None where none is much like it."""
    names = {other.lower(): other for other in known}
    close = get_close_matches(str(name).lower(), names, 1, _ALIKE)
    return names[close[0]] if close else None


def suggestion(name: Any, known: Iterable[str]) -> str:
    """What to write in place of an unknown name: `did you mean 'x'?`, or all that exist."""
    names = list(known)
    close = nearest(name, names)
    return f"known: {', '.join(names)}" if close is None else f"did you mean {close!r}?"


def _item(value: Any) -> Any:
    """The number in a numpy scalar or in a tensor of one; None where there are several."""
    try:
        return value.item()
    except (RuntimeError, ValueError):
        return None


def _fits(value: Any, annotation: Any) -> bool:
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin is Literal:
        return any(value == known and type(value) is type(known) for known in arguments)
    if origin in (Union, UnionType):
        return any(_fits(value, argument) for argument in arguments)
    if origin is Sequence:
        return isinstance(value, (list, tuple)) and all(_fits(entry, arguments[0]) for entry in value)
    if annotation is float:
        return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
    if annotation is int:
        return isinstance(value, int) and not isinstance(value, bool)
    return value is None if annotation is NoneType else isinstance(value, annotation)


def _described(annotation: Any) -> str:
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin is Literal:
        return f"one of {', '.join(map(repr, arguments))}"
    if origin in (Union, UnionType):
        return " or ".join(_described(argument) for argument in arguments)
    if origin is Sequence:
        return {int: "a list of whole numbers", float: "a list of numbers"}.get(arguments[0], "a list")
    names = {str: "text", float: "a finite number", int: "a whole number", bool: "True or False", NoneType: "None"}
    return names.get(annotation, str(annotation))
