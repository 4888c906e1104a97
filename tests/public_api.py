"""What the public surface is: one line a name, with the names, kinds and defaults of its parameters.

Public is what `__all__` lists, from `medcalib` on down: a module that is listed there is public, and so is what its own
`__all__` lists. To take a change over, and to see it in the diff:

    python tests/public_api.py > tests/public_api.txt

What disappears or is renamed needs the policy of docs/stability.md first.
"""

from __future__ import annotations

import enum
import inspect
import re
import sys
from collections.abc import Iterator, Mapping
from types import ModuleType
from typing import Any

import medcalib

VALUES = (str, int, float, bool, tuple, type(None))


def modules(module: ModuleType = medcalib) -> Iterator[ModuleType]:
    """The public modules, each once."""
    yield module
    for name in exported(module):
        if inspect.ismodule(value := getattr(module, name)):
            yield from modules(value)


def exported(module: ModuleType) -> list[str]:
    """`__all__`; what a module without one defines, but for names that begin with `_`."""
    own = (name for name, value in vars(module).items() if getattr(value, "__module__", None) == module.__name__)
    return list(getattr(module, "__all__", None) or sorted(name for name in own if not name.startswith("_")))


def objects() -> dict[str, Any]:
    """Every public object by its dotted name."""
    return {
        f"{module.__name__}.{name}": value
        for module in modules()
        for name in exported(module)
        if not inspect.ismodule(value := getattr(module, name))
    }


def lines() -> list[str]:
    """The surface, sorted."""
    found = [module.__name__ for module in modules()]
    for name, value in objects().items():
        found += described(name, value)
    return sorted(found)


def described(name: str, value: Any) -> list[str]:
    """The lines of one object and of its members."""
    if inspect.isclass(value):
        return of_class(name, value)
    if inspect.isroutine(value):
        return [name + signature(value)]
    if isinstance(value, Mapping) and all(map(callable, value.values())):
        return [f"{name}[{key!r}]{signature(entry)}" for key, entry in value.items()]
    if isinstance(value, (Mapping, list, tuple)) and all(isinstance(key, str) and key.isidentifier() for key in value):
        return [f"{name}: {type(value).__name__} of {', '.join(value)}"]
    return [f"{name}: {type(value).__name__}"]


def of_class(name: str, kind: Any) -> list[str]:
    """A class: its constructor, and what it defines in public."""
    if issubclass(kind, enum.Enum):
        return [f"{name}.{member.name} = {member.value!r}" for member in kind]
    head = "" if getattr(kind, "_is_protocol", False) else signature(kind)
    found = [name + head]
    for member, value in members(kind).items():
        if re.search(rf"\b{member}\b", head):  # a field, which the constructor tells
            continue
        if isinstance(value, property) or not callable(getattr(kind, member)):
            found.append(f"{name}.{member}")
        else:
            found.append(f"{name}.{member}{signature(getattr(kind, member))}")
    return found


def members(kind: type) -> dict[str, Any]:
    """What a class and those of medcalib that it inherits from define: methods, properties, constants."""
    found: dict[str, Any] = {}
    for base in reversed(kind.__mro__):
        if base.__module__.startswith("medcalib"):
            found |= vars(base)
    return {
        name: value
        for name, value in found.items()
        if not name.startswith("_") and not name.startswith("model_") and hasattr(kind, name)
    }


def signature(value: Any) -> str:
    """Parameters without annotations; `(...)` where nobody can tell them."""
    try:
        found = inspect.signature(value)
    except (TypeError, ValueError):
        return "(...)"
    shown = [
        p.replace(annotation=p.empty, default=p.default if p.default is p.empty else Shown(p.default))
        for p in found.parameters.values()
    ]
    text = str(found.replace(parameters=shown, return_annotation=found.empty))
    return "(...)" if text == "(*args, **kwargs)" else text  # of a library's class, which differs between versions


class Shown:
    """A default as text that is the same in every process."""

    def __init__(self, value: Any) -> None:
        self.text = (
            repr(value) if isinstance(value, VALUES) else f"<{getattr(value, '__name__', type(value).__name__)}>"
        )

    def __repr__(self) -> str:
        return self.text


if __name__ == "__main__":
    sys.stdout.write("\n".join(lines()) + "\n")
