"""Configs: YAML in, a closed and frozen `RunConfig` out, with every mistake reported at its place.

config = load(Path("configs/acdc.yaml"), overrides=["train.epochs=5"], data="/data/ACDC", loss="mbls")

The models know every loss and network, whose import takes seconds: they come with the first config that can be read.
"""

from __future__ import annotations

import io
import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ruamel.yaml import YAML
from ruamel.yaml.representer import SafeRepresenter

from medcalib.config.deprecated import tell
from medcalib.config.messages import dotted, explain, shown
from medcalib.config.reader import KeyPath, Source, parse_yaml, read_yaml
from medcalib.errors import ConfigError
from medcalib.lazy import lazily
from medcalib.plain import one_line

if TYPE_CHECKING:
    from medcalib.config.schema import DataConfig, RunConfig, TrainConfig

__all__ = ["DataConfig", "RunConfig", "TrainConfig", "bundled", "dump", "json_schema", "load"]

__getattr__ = lazily(__name__, __all__, DataConfig="schema", RunConfig="schema", TrainConfig="schema")


def load(
    path: Path,
    *,
    overrides: Sequence[str] = (),
    data: str | None = None,
    loss: str | None = None,
    saved: bool = False,
) -> RunConfig:
    """Read the config file `path`, apply `overrides` such as "train.epochs=5", and validate the result once.

    `data` takes the place of `data.root`, `loss` (a name) that of another loss. Deprecated keys are read, and told in a
    warning of the log unless the file is one that a run has `saved`. Raises `ConfigError` whose text has one line a
    mistake: `file:line:col: path: ...`.
    """
    source = read_yaml(path)
    if not isinstance(source.data, dict):
        came = "an empty file" if source.data is None else shown(source.data)
        raise ConfigError(f"{path}:1:1: expected a mapping of keys to values, got {came}")
    if loss is not None and _loss_name(source.data) != loss:
        _put(source, ("loss",), loss, "--loss")  # before the overrides, which may change its options
    for text in overrides:
        _override(source, text)
    if data is not None:
        _put(source, ("data", "root"), data, "--data")
        if source.places[("data",)] == "--data":  # the file lacks the section, and with it more than the folder
            del source.places[("data",)]
    config = validate(source)
    if not saved:
        tell(source)
    return config


def validate(source: Source) -> RunConfig:
    """A `RunConfig` from a parsed source, or every mistake at once."""
    from pydantic import ValidationError

    from medcalib.config.checks import cross_checks
    from medcalib.config.schema import RunConfig

    try:
        config = RunConfig.model_validate(_frozen(source.data))
    except ValidationError as error:
        raise ConfigError("\n".join(explain(error, source, RunConfig))) from None
    findings = sorted(cross_checks(config), key=lambda finding: source.order(finding[0]))
    if findings:
        raise ConfigError("\n".join(f"{source.place(path)}: {dotted(path)}: {text}" for path, text in findings))
    return config


def dump(config: RunConfig) -> str:
    """The complete config as YAML, defaults included; `load` reads it back to an equal config."""
    stream = io.StringIO()
    yaml: Any = YAML(typ="safe", pure=True)
    yaml.default_flow_style = None
    yaml.Representer = _Quoting
    yaml.sort_base_mapping_type_on_output = False
    yaml.dump(json.loads(config.model_dump_json()), stream)
    return stream.getvalue()


class _Quoting(SafeRepresenter):
    """Quotes all text but plain words: the library leaves `?x` and `:x` bare, and then cannot read them."""


def _represented(representer: SafeRepresenter, text: str) -> Any:
    style = None if re.fullmatch(r"[A-Za-z0-9_./ -]*", text) else '"'
    return representer.represent_scalar("tag:yaml.org,2002:str", text, style=style)


_Quoting.add_representer(str, _represented)


def json_schema() -> dict[str, Any]:
    """JSON schema of a config file, for editors."""
    from medcalib.config.schema import RunConfig

    schema = RunConfig.model_json_schema()
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", "title": "medcalib config"} | schema


def _frozen(value: Any) -> Any:
    """Lists become tuples, the only sequences that the strict models take."""
    if isinstance(value, list):
        return tuple(_frozen(entry) for entry in value)
    return {key: _frozen(entry) for key, entry in value.items()} if isinstance(value, dict) else value


def _override(source: Source, text: str) -> None:
    key, equals, value = text.partition("=")
    name = f"--set {one_line(key)}"
    if not equals or not all(part.strip() for part in key.split(".")):
        raise ConfigError(f"--set {one_line(text)}: expected key=value, such as --set train.epochs=5")
    parsed: Any = parse_yaml(value, name).data if value.strip() else None
    _put(source, tuple(key.strip().split(".")), parsed, name)


def _put(source: Source, path: KeyPath, value: Any, name: str) -> None:
    """Set a value deep in the data; a short form (`loss: mbls`) on the way is written out first."""
    node = source.data
    for depth, part in enumerate(path[:-1]):
        child = node.get(part)
        if isinstance(child, str):
            child = {"name": child}
            source.places[path[: depth + 1]] = name
        if child is None:
            child = {}
        if not isinstance(child, dict):
            raise ConfigError(f"{name}: {dotted(path[: depth + 1])} holds no keys, but {shown(child)}")
        node[part] = child
        node = child
    node[path[-1]] = value
    for known in [known for known in source.places if known[: len(path)] == path]:
        del source.places[known]
    for depth in range(1, len(path) + 1):
        source.places.setdefault(path[:depth], name)
    source.places[path] = name


def _loss_name(data: dict[str, Any]) -> Any:
    loss = data.get("loss")
    return loss.get("name") if isinstance(loss, dict) else loss
