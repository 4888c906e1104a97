"""YAML 1.2 to plain data with the line and column of every key and value.

Built on ruamel's event stream rather than its constructors: no tag is resolved, no alias expanded, no object
made, nesting and size are bounded, and duplicate keys are reported with both lines.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError
from ruamel.yaml.events import (
    AliasEvent,
    DocumentStartEvent,
    MappingEndEvent,
    MappingStartEvent,
    ScalarEvent,
    SequenceEndEvent,
    SequenceStartEvent,
)

from medcalib.config.yaml_errors import explained
from medcalib.errors import ConfigError
from medcalib.plain import one_line

MAX_BYTES = 1 << 20
MAX_DEPTH = 50
MAX_NODES = 50_000  # keys and values; reading so many takes seconds
KeyPath = tuple[str | int, ...]

_INTEGER = re.compile(r"[-+]?[0-9]+\Z")
_FLOAT = re.compile(r"[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?\Z")
_WORDS: dict[str, Any] = {"": None, "~": None}
_WORDS |= dict.fromkeys(("null", "Null", "NULL"))
_WORDS |= dict.fromkeys(("true", "True", "TRUE"), True)
_WORDS |= dict.fromkeys(("false", "False", "FALSE"), False)
_WORDS |= {f"{sign}.{word}": float(f"{sign}inf") for sign in ("", "+", "-") for word in ("inf", "Inf", "INF")}
_WORDS |= {word: float("nan") for word in (".nan", ".NaN", ".NAN")}


@dataclass
class Source:
    """Plain data and where each part of it was written: path of keys -> "file:line:col"."""

    name: str
    data: Any = None
    places: dict[KeyPath, str] = field(default_factory=dict)

    def place(self, path: KeyPath) -> str:
        """Where `path`, or its nearest parent that exists, was written."""
        while path and path not in self.places:
            path = path[:-1]
        return self.places.get(path, f"{self.name}:1:1")

    def order(self, path: KeyPath) -> tuple[int, ...]:
        """Sorts findings by line and column; those of the command line come first."""
        return tuple(int(part) for part in self.place(path).split(":")[-2:] if part.isdecimal())


def read_yaml(path: Path) -> Source:
    """Read a YAML file; `ConfigError` names file, line and column."""
    if path.is_dir():
        raise ConfigError(f"{path}: cannot be read: it is a folder; name the YAML file of a config")
    try:
        raw = path.read_bytes()
    except FileNotFoundError:
        raise ConfigError(
            f"{path}: cannot be read: No such file; `medcalib datasets` lists the shipped configs"
        ) from None
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror}") from error
    if len(raw) > MAX_BYTES:
        raise ConfigError(f"{path}: has {len(raw):,} bytes; a config has at most {MAX_BYTES:,}")
    try:
        text = raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path}: is no UTF-8 text (byte {error.start}); a config is YAML, saved as UTF-8") from None
    return parse_yaml(text, str(path))


def parse_yaml(text: str, name: str) -> Source:
    """Parse YAML text into a `Source`; `name` stands for the file in messages."""
    source = Source(name)
    try:
        _Builder(source).build(YAML(typ="safe", pure=True).parse(text))
    except YAMLError as error:
        raise ConfigError(explained(error, name)) from None
    except ValueError as error:  # control characters, for example
        raise ConfigError(f"{name}: not valid YAML: {one_line(str(error).splitlines()[0])}") from None
    return source


@dataclass
class _Open:
    """A mapping or sequence whose end has not come yet."""

    value: dict[str, Any] | list[Any]
    path: KeyPath
    key: str | None = None  # of a mapping: the key that waits for its value
    seen: dict[str, int] = field(default_factory=dict)


class _Builder:
    """Consumes parse events iteratively, so that deep nesting cannot exhaust the stack."""

    def __init__(self, source: Source) -> None:
        self.source = source
        self.stack: list[_Open] = []
        self.documents = 0
        self.nodes = 0

    def build(self, events: Iterator[Any]) -> None:
        for event in events:
            self._refuse_features(event)
            self._count(event)
            if isinstance(event, MappingStartEvent):
                self._open(event, {})
            elif isinstance(event, SequenceStartEvent):
                self._open(event, [])
            elif isinstance(event, (MappingEndEvent, SequenceEndEvent)):
                self.stack.pop()
            elif isinstance(event, ScalarEvent):
                self._scalar(event)

    def _refuse_features(self, event: Any) -> None:
        if isinstance(event, DocumentStartEvent):
            self.documents += 1
            if self.documents > 1:
                raise self._error(event, "a second document; a config is one document")
        if isinstance(event, AliasEvent) or getattr(event, "anchor", None):
            fix = "write the value out, or put text that begins with & or * in quotes"
            raise self._error(event, f"anchors and aliases are not allowed; {fix}")
        tag = getattr(event, "tag", None)
        if tag is not None and str(tag) not in ("None", "!"):
            raise self._error(event, f"the tag {str(tag)[:60]} is not allowed; a config holds plain data")

    def _count(self, event: Any) -> None:
        self.nodes += 1
        if self.nodes > MAX_NODES:
            raise self._error(event, f"a config has at most {MAX_NODES:,} keys and values")

    def _open(self, event: Any, value: dict[str, Any] | list[Any]) -> None:
        if len(self.stack) >= MAX_DEPTH:
            raise self._error(event, f"nested deeper than {MAX_DEPTH} levels")
        path = self._attach(value, event)
        self.stack.append(_Open(value, path))

    def _scalar(self, event: Any) -> None:
        top = self.stack[-1] if self.stack else None
        if top is not None and isinstance(top.value, dict) and top.key is None:
            line = event.start_mark.line + 1
            if event.value in top.seen:
                raise self._error(event, f"key {event.value!r} stands twice, first in line {top.seen[event.value]}")
            top.key, top.seen[event.value] = event.value, line
            self.source.places[(*top.path, event.value)] = self._place(event)
        else:
            self._attach(scalar(event.value) if event.style is None else event.value, event)

    def _attach(self, value: Any, event: Any) -> KeyPath:
        if not self.stack:
            self.source.data = value
            self.source.places[()] = self._place(event)
            return ()
        top = self.stack[-1]
        if isinstance(top.value, list):
            path: KeyPath = (*top.path, len(top.value))
            top.value.append(value)
            self.source.places[path] = self._place(event)
            return path
        if top.key is None:
            raise self._error(event, "a key must be plain text")
        path, top.value[top.key] = (*top.path, top.key), value
        top.key = None
        return path

    def _place(self, event: Any) -> str:
        return f"{self.source.name}:{event.start_mark.line + 1}:{event.start_mark.column + 1}"

    def _error(self, event: Any, message: str) -> ConfigError:
        return ConfigError(f"{self._place(event)}: {one_line(message)}")


def scalar(text: str) -> Any:
    """An unquoted scalar by the YAML 1.2 core schema: `1e-3` is a number, `no` and `2024-01-01` are text."""
    if text in _WORDS:
        return _WORDS[text]
    if _INTEGER.match(text) and len(text) < 30:
        return int(text)
    return float(text) if _FLOAT.match(text) else text
