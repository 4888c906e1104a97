"""The methods of a comparison: from what the command line names to complete options of losses by label."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from medcalib.config import RunConfig, validate
from medcalib.config.reader import Source, parse_yaml
from medcalib.engine.compare.folder import LABEL
from medcalib.errors import ConfigError

_METHOD = re.compile(r"(?P<label>.+?)=\s*(?P<loss>\{.*\}|\w+)\s*", re.DOTALL)


@dataclass
class Methods:
    """Options by label, labels of each sweep in the order of its values, and what is wrong with the rest."""

    options: dict[str, dict[str, Any]] = field(default_factory=dict)
    sweeps: dict[str, list[str]] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)


def read_methods(
    base: RunConfig, losses: Sequence[str], methods: Sequence[str] = (), sweeps: Sequence[str] = ()
) -> Methods:
    """Every method, judged by the config's own checks.

    losses: names; one that is the config's own loss keeps the config's options, others have their defaults.
    methods: texts `LABEL={name: mbls, margin: 5}`. sweeps: texts `mbls.margin=1,5,10`, whose first part is a name of
    a loss or a label of `methods`; their labels are `mbls-margin=5`.
    """
    found = Methods()
    for name in losses:
        _add(found, base, name, _own(base, name), f"--losses {name}")
    for text in methods:
        parts = _METHOD.fullmatch(text)
        if parts is None:
            found.problems.append(f"--method {text}: expected LABEL={{name: mbls, margin: 5}}")
            continue
        _parse(found, base, parts["label"].strip(), parts["loss"], f"--method {parts['label']}")
    for text in sweeps:
        try:
            _sweep(found, base, text)
        except ConfigError as error:
            found.problems.append(str(error))
    return found


def _own(base: RunConfig, name: str) -> dict[str, Any]:
    return json.loads(base.loss.model_dump_json()) if base.loss.name == name else {"name": name}


def _parse(found: Methods, base: RunConfig, label: str, text: str, place: str) -> None:
    try:
        source = parse_yaml(text, place)
    except ConfigError as error:
        found.problems.append(str(error))
        return
    _add(found, base, label, source.data, place, source)


def _sweep(found: Methods, base: RunConfig, text: str) -> None:
    key, _, listed = text.partition("=")
    method, _, option = key.strip().rpartition(".")
    values = parse_yaml(f"[{listed}]", f"--sweep {key}").data
    if not method or not option or not values:
        raise ConfigError(f"--sweep {text}: expected METHOD.OPTION=VALUE,VALUE, such as mbls.margin=1,5,10")
    options = found.options.get(method, _own(base, method))
    labels = {}
    for value in values:
        label = f"{method}-{option}={_word(value)}"
        labels[label] = value
        _add(found, base, label, {**options, option: value}, f"--sweep {key}={_word(value)}")
    numeric = all(isinstance(value, int | float) for value in values)
    found.sweeps[f"{method}.{option}"] = sorted(labels, key=lambda label: labels[label]) if numeric else list(labels)


def _word(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def _add(found: Methods, base: RunConfig, label: str, loss: Any, place: str, written: Source | None = None) -> None:
    """Judge a method and note it under its label, or what is wrong with it."""
    if not LABEL.match(label):
        found.problems.append(
            f"{place}: the label {label[:80]!r} cannot be a folder; use at most 64 letters, digits, '.', '_', '=' and "
            "'-', beginning with a letter or digit; name it yourself by --method LABEL={name: ...}"
        )
    elif label.lower() in map(str.lower, found.options):
        found.problems.append(f"{place}: the label {label} is there already; each method needs its own")
    else:
        try:
            config = _with_loss(base, loss, place, written)
        except ConfigError as error:
            found.problems.append(str(error))
        else:
            found.options[label] = json.loads(config.loss.model_dump_json())


def _with_loss(base: RunConfig, loss: Any, place: str, written: Source | None) -> RunConfig:
    """The config with another loss, whose mistakes are told at their place in the option."""
    data = json.loads(base.model_dump_json()) | {"loss": loss}
    places = {("loss", *path): where for path, where in (written.places if written else {}).items()}
    return validate(Source(place, data, {("loss",): place} | places))
