"""Pydantic's findings as `file:line:col: path: what was expected, what came, did you mean ...`."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any

from pydantic import BaseModel, ValidationError

from medcalib.config.reader import KeyPath, Source
from medcalib.options import nearest, suggestion
from medcalib.plain import one_line

__all__ = ["dotted", "explain", "real_path", "shown"]

_EXPECTED = {
    "int_type": "a whole number",
    "int_parsing": "a whole number",
    "int_from_float": "a whole number",
    "float_type": "a number",
    "float_parsing": "a number",
    "string_type": "text; put it in quotes if it looks like a number",
    "bool_type": "true or false",
    "dict_type": "a mapping of keys to values",
    "model_attributes_type": "a name, or a mapping with the key `name`",
    "finite_number": "a finite number",
}
_NO_CODE = "configs are data and execute nothing; name a choice, such as `loss: mbls`"


def explain(error: ValidationError, source: Source, model: type[BaseModel]) -> list[str]:
    """One line for each mistake, sorted by place, repeats of a union's members merged."""
    lines: dict[tuple[KeyPath, str], str] = {}
    for entry in error.errors(include_url=False):
        path = real_path(entry["loc"], source.data)
        message = _message(entry, path, model)
        lines.setdefault((path, message), f"{source.place(path)}: {dotted(path)}: {message}")
    return [lines[key] for key in sorted(lines, key=lambda key: source.order(key[0]))]


def real_path(loc: Sequence[str | int], data: Any) -> KeyPath:
    """Pydantic's location without the tags that unions put into it."""
    path: list[str | int] = []
    for position, part in enumerate(loc):
        last = position == len(loc) - 1
        if _holds(data, part):
            data = data[part]
        elif not (last and isinstance(data, Mapping) and isinstance(part, str)):
            continue
        path.append(part)
    return tuple(path)


def _holds(data: Any, part: str | int) -> bool:
    if isinstance(data, (list, tuple)):
        return isinstance(part, int) and part < len(data)
    return isinstance(data, Mapping) and part in data


def dotted(path: KeyPath) -> str:
    """`data.labels[2]` for a path; the file itself is `config`. A key cannot steer a terminal or begin a line."""
    text = ""
    for part in path:
        text += f"[{part}]" if isinstance(part, int) else f".{part}" if text else str(part)
    return one_line(text) or "config"


def _message(entry: Any, path: KeyPath, model: type[BaseModel]) -> str:
    kind, came, context = entry["type"], entry["input"], entry.get("ctx", {})
    if kind == "extra_forbidden":
        return _unknown_key(str(entry["loc"][-1]), entry["loc"], path, model)
    if kind == "missing":
        return _missing(entry["loc"][-1], came)
    if kind == "union_tag_not_found":
        hidden = any(_executes(key) for key in came) if isinstance(came, Mapping) else False
        return _NO_CODE if hidden else f"expected {_EXPECTED['model_attributes_type']}, got {shown(came)}{_sum(entry)}"
    if kind == "union_tag_invalid":
        known = [tag.strip(" '") for tag in context["expected_tags"].split(",")]
        return f"unknown name {context['tag']!r}; {suggestion(context['tag'], known)}{_sum(entry)}"
    if kind == "literal_error":
        known = [tag.strip(" '") for tag in context["expected"].replace(" or ", ", ").split(",")]
        return f"expected one of {', '.join(known)}, got {shown(came)}{_did_you_mean(came, known)}"
    if kind == "value_error":
        return str(context["error"])
    if kind in ("tuple_type", "list_type", "model_type", *_EXPECTED):
        return f"expected {_type(entry, model)}, got {shown(came)}"
    if kind == "too_long":
        return f"expected {context['max_length']} entries, got {shown(came)}"
    text = entry["msg"].removeprefix("Input should ")
    return f"must {text}, got {shown(came)}" if text != entry["msg"] else f"{text}, got {shown(came)}"


def _type(entry: Any, model: type[BaseModel]) -> str:
    if entry["type"] in ("tuple_type", "list_type"):
        return f"a list, such as {_listed(entry['input'])}"
    if entry["type"] == "model_type":
        known = _keys_at(model, entry["loc"])
        keys = f" ({', '.join(known[:3])}{', ...' if len(known) > 3 else ''})" if known else ""
        return f"a mapping of keys{keys} to values"
    return _EXPECTED[entry["type"]]


def _listed(came: Any) -> str:
    """A list that may have been meant."""
    if isinstance(came, str):
        return f"[{came.strip(' ()[]')}]" if came.isprintable() and 0 < len(came) <= 40 else "[a, b]"
    return f"[{came}, {came}, {came}]" if type(came) in (int, float) else "[1, 2, 3]"


def _sum(entry: Any) -> str:
    """What to write for several losses at once."""
    came = entry["input"].get("name") if isinstance(entry["input"], Mapping) else entry["input"]
    several = isinstance(came, (list, tuple)) or (isinstance(came, str) and re.search(r"[+,]", came))
    if entry["loc"] != ("loss",) or not several:
        return ""
    return "; a sum is {name: custom, terms: [{term: cross_entropy}, {term: dice, weight: 0.5}]}"


def _missing(part: str | int, came: Any) -> str:
    if isinstance(part, int):  # a list that is too short
        return f"entry {part + 1} is missing, got {shown(came)}"
    return "is required, but missing"


def _executes(key: Any) -> bool:
    """Whether a key is one by which other tools run code from a config."""
    return str(key) in ("_target_", "_partial_", "_args_") or str(key).startswith("$")


def _unknown_key(key: str, loc: Sequence[str | int], path: KeyPath, model: type[BaseModel]) -> str:
    if _executes(key):
        return _NO_CODE
    known = _keys_at(model, loc[:-1])
    if known == ["name"]:
        return f"unknown key; {loc[-2]!r} has no options"
    here, above = nearest(key, known), dotted(path[:-1]) if path[1:] else ""
    places = {other: found for other, found in _places(model).items() if above not in found}
    other = key if key in places else None if here else nearest(key, places)
    meant = [] if other is None else [_shown_place(place, other) for place in places[other]]
    if meant:
        meant += [_shown_place(above, here)] if here else []
        return f"unknown key; did you mean {' or '.join(meant[:3])}?"
    return f"unknown key; {suggestion(key, known)}" if known else "unknown key"


def _shown_place(above: str, key: str) -> str:
    return repr(f"{above}.{key}") if above else f"{key!r} at the top level"


@cache
def _places(model: type[BaseModel]) -> dict[str, list[str]]:
    """Every key of the model -> the keys above it, dotted; not the name of a choice, which every choice has."""
    schema = _schema(model)
    definitions, places = schema.get("$defs", {}), dict[str, list[str]]()
    open_nodes: list[tuple[Any, str]] = [(schema, "")]
    for node, above in open_nodes:  # which grows
        for variant in _variants(node, definitions):
            for key, child in variant.get("properties", {}).items():
                known = places.setdefault(key, [])
                if "const" not in child and above not in known:
                    known.append(above)
                open_nodes.append((child, f"{above}.{key}".lstrip(".")))
    return {key: found for key, found in places.items() if found}


def _did_you_mean(name: Any, known: Sequence[str]) -> str:
    close = nearest(name, known)
    return "" if close is None else f"; did you mean {close!r}?"


def shown(value: Any) -> str:
    """A value as a config would write it, shortened."""
    text = f"text {value!r}" if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)
    text = one_line(text)
    return text if len(text) <= 80 else text[:77] + "..."


def _keys_at(model: Any, loc: Sequence[str | int]) -> list[str]:
    """The keys that the model at a pydantic location has, found through the JSON schema."""
    schema = _schema(model)
    definitions = schema.get("$defs", {})
    nodes = [schema]
    for part in loc:
        nodes = [child for node in nodes for child in _children(node, part, definitions)]
    found = [key for node in nodes for variant in _variants(node, definitions) for key in variant.get("properties", {})]
    return sorted(set(found), key=found.index)


@cache
def _schema(model: type[BaseModel]) -> dict[str, Any]:
    return model.model_json_schema()


def _variants(node: Any, definitions: Mapping[str, Any]) -> list[Any]:
    if "$ref" in node:
        return _variants(definitions[node["$ref"].rsplit("/", 1)[1]], definitions)
    options = node.get("anyOf") or node.get("oneOf")
    return [v for option in options for v in _variants(option, definitions)] if options else [node]


def _children(node: Any, part: str | int, definitions: Mapping[str, Any]) -> list[Any]:
    variants = _variants(node, definitions)
    by_key = [v["properties"][part] for v in variants if part in v.get("properties", {})]
    if by_key:
        return by_key
    if isinstance(part, int):
        return [v["items"] for v in variants if isinstance(v.get("items"), dict)]
    # the tag of a union member: keep only that member
    return [v for v in variants if v.get("properties", {}).get("name", {}).get("const") == part]
