"""Closed pydantic models generated from signatures, so that every default has one home: the constructor."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from functools import reduce
from operator import or_
from typing import Annotated, Any, Literal, get_args, get_origin

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, create_model


class Closed(BaseModel):
    """Base of every config model: unknown keys refused, no coercion, frozen, numbers finite."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False, strict=True)


class Choice(Closed):
    """A named choice with the options of its constructor."""

    name: str

    def options(self) -> dict[str, Any]:
        """The options, without the name."""
        return {key: getattr(self, key) for key in type(self).model_fields if key != "name"}


def parameters_of(function: Callable[..., Any]) -> dict[str, inspect.Parameter]:
    """The keyword-only parameters of a function, which are its options."""
    parameters = inspect.signature(function, eval_str=True).parameters
    return {key: p for key, p in parameters.items() if p.kind is inspect.Parameter.KEYWORD_ONLY}


def union(kind: str, choices: Mapping[str, Mapping[str, inspect.Parameter]]) -> Any:
    """A union over `choices` (name -> parameters), told apart by the key `name`; a bare name stands for defaults."""
    models = [_model(kind, name, parameters) for name, parameters in choices.items()]
    members = reduce(or_, models) if len(models) > 1 else models[0]
    tagged: Any = Annotated[members, Field(discriminator="name")] if len(models) > 1 else members
    # the schema must let editors accept the short form too
    short: Any = Literal[tuple(choices)]
    return Annotated[tagged, BeforeValidator(_expanded, json_schema_input_type=short | members)]


def _expanded(value: Any) -> Any:
    return {"name": value} if isinstance(value, str) else value


def _model(kind: str, name: str, parameters: Mapping[str, inspect.Parameter]) -> type[Choice]:
    fields: dict[str, Any] = {"name": (Literal[name], ...)}
    for key, parameter in parameters.items():
        default = ... if parameter.default is inspect.Parameter.empty else _frozen(parameter.default)
        fields[key] = (as_immutable(parameter.annotation), Field(default, description=_about(parameter.annotation)))
    title = f"{kind}_{name}"
    return create_model(title, __base__=Choice, __doc__=f"Options of the {kind} {name!r}.", **fields)


def as_immutable(annotation: Any) -> Any:
    """Sequences become tuples, which JSON lists fill and nobody changes."""
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        return as_immutable(arguments[0])
    if origin is Sequence or origin is list:
        return tuple[as_immutable(arguments[0]), ...]  # type: ignore[misc] # a type that is only known when run
    if origin is Mapping or origin is dict:
        return dict[as_immutable(arguments[0]), as_immutable(arguments[1])]  # type: ignore[misc] # as above
    if origin in (Literal, tuple) or not arguments:
        return annotation
    return reduce(or_, (as_immutable(argument) for argument in arguments))


def _about(annotation: Any) -> str | None:
    """What the text of an `Annotated` option says it is."""
    texts = [entry for entry in getattr(annotation, "__metadata__", ()) if isinstance(entry, str)]
    return texts[0] if texts else None


def _frozen(default: Any) -> Any:
    return tuple(_frozen(entry) for entry in default) if isinstance(default, (list, tuple)) else default
