"""Laws of reading: any tree is a config or a `ConfigError`, and what is written is read back equal."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from medcalib.calibrators import names as calibrators
from medcalib.config import RunConfig, dump, json_schema, load
from medcalib.config.bundled import bundled
from medcalib.config.reader import parse_yaml
from medcalib.errors import ConfigError
from medcalib.losses import RECIPES

few = settings(max_examples=20, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow])
PHANTOM = parse_yaml(bundled()["phantom"].read_text(encoding="utf-8"), "phantom").data
SCHEMA = json_schema()


def keys(node: Any) -> set[str]:
    """Every key that some part of a config has."""
    if isinstance(node, list):
        return set().union(*map(keys, node)) if node else set()
    if not isinstance(node, dict):
        return set()
    return set(node.get("properties", ())) | set().union(*map(keys, node.values()), set())


words = st.sampled_from(sorted(keys(SCHEMA) | set(RECIPES) | set(calibrators()) | {"acdc", "files", "kfold", "unet"}))
leaves = st.one_of(
    words, st.none(), st.booleans(), st.integers(-3, 300), st.integers(), st.floats(width=32), st.text(max_size=6)
)
trees = st.recursive(
    leaves, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(words | st.text(max_size=4), inner, max_size=4)
)


def read(folder: Path, text: str) -> RunConfig | None:
    """A config, or None where it is refused in lines that each name a place."""
    path = folder / "c.yaml"
    path.write_bytes(text.encode("utf-8", "surrogatepass"))
    try:
        return load(path)
    except ConfigError as error:
        in_lines(error, str(path))
        return None


def in_lines(error: ConfigError, start: str) -> None:
    """Every line of a refusal is printable and begins with a place."""
    assert all(line.isprintable() and line.startswith(start) for line in str(error).split("\n"))


@pytest.mark.fault(1, 9, 13)
@given(tree=trees)
@few
def test_any_tree_is_refused_in_lines_that_name_a_place(tmp_path_factory: pytest.TempPathFactory, tree: Any) -> None:
    assert read(tmp_path_factory.mktemp("c"), json.dumps(tree)) is None


@pytest.mark.fault(1, 9)
@given(section=st.sampled_from(sorted(PHANTOM)), key=words, tree=trees)
@few
def test_any_part_of_a_config_may_be_anything(
    tmp_path_factory: pytest.TempPathFactory, section: str, key: str, tree: Any
) -> None:
    """One part replaced: what is accepted is written and read back equal."""
    folder, part = tmp_path_factory.mktemp("c"), PHANTOM[section]
    changed = PHANTOM | {section: part | {key: tree} if isinstance(part, dict) and key != "name" else tree}
    found = read(folder, json.dumps(changed))
    if found is not None:
        assert read(folder, dump(found)) == found


@given(tree=trees)
@settings(few, max_examples=100)
def test_what_json_writes_is_read_as_json_reads_it(tree: Any) -> None:
    """A parser that this one shares no code with: the same text, numbers, lists and keys."""
    text = json.dumps(tree, ensure_ascii=False)
    if "NaN" not in text and "Infinity" not in text and text.isprintable():
        assert parse_yaml(text, "t").data == json.loads(text, parse_int=_number)


def _number(text: str) -> int | float:
    """Integers of 30 characters and more are read as floats."""
    return int(text) if len(text) < 30 else float(text)


options = st.sampled_from(
    [
        ("train.lr", st.floats(1e-6, 10)),
        ("train.epochs", st.integers(1, 10**6)),
        ("train.seed", st.integers(0, 2**32 - 1)),
        ("train.cache_dir", st.text(st.characters(exclude_categories=("Cs",)), max_size=8)),
        ("loss", st.sampled_from(sorted(RECIPES))),
        ("score.bins", st.sampled_from([1, 10, 15, 30, 100])),
        ("data.exclude", st.lists(st.text(st.characters(exclude_categories=("Cs",)), max_size=5), max_size=3)),
    ]
).flatmap(lambda option: st.tuples(st.just(option[0]), option[1]))


@pytest.mark.fault(15)
@given(option=options)
@few
def test_an_override_is_the_value_in_the_file(
    tmp_path_factory: pytest.TempPathFactory, option: tuple[str, Any]
) -> None:
    folder, (key, value) = tmp_path_factory.mktemp("c"), option
    found = load(bundled()["phantom"], overrides=[f"{key}={json.dumps(value)}"])
    section, _, name = key.partition(".")
    changed = PHANTOM | {section: PHANTOM.get(section, {}) | {name: value} if name else value}
    assert found == read(folder, json.dumps(changed))


@pytest.mark.fault(15)
@given(key=words | st.text(max_size=8), text=st.text(max_size=12))
@few
def test_any_override_is_applied_or_refused(key: str, text: str) -> None:
    for prefix in ("", "train.", "loss."):
        try:
            load(bundled()["phantom"], overrides=[f"{prefix}{key}={text}"])
        except ConfigError as error:
            in_lines(error, "--set ")
