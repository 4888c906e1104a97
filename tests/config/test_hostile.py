"""Configs made to hang, to fill memory or to steer a terminal are refused within measured bounds."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from medcalib.cli import app
from medcalib.config import load
from medcalib.config.bundled import bundled
from medcalib.config.reader import MAX_BYTES, MAX_NODES
from medcalib.errors import ConfigError

GOOD = bundled()["phantom"].read_text(encoding="utf-8")
LAUGHS = "a: &a [x, x]\n" + "".join(
    f"{b}: &{b} [{', '.join([f'*{a}'] * 9)}]\n" for a, b in zip("abcdefghij", "bcdefghijk", strict=True)
)
HOSTILE = {
    "aliases": LAUGHS,
    "anchors": "z: [" + "&a " * 30_000 + "]\n",
    "merge": "a: &a {x: 1}\nb: {" + "<<: *a, " * 1000 + "}\n",
    "brackets": "[" * 20_000,
    "braces": "{a: " * 20_000,
    "dashes": "- " * 20_000,
    "indented": "".join(f"{' ' * k}a:\n" for k in range(400)),
    "large": "a: " + "x" * MAX_BYTES,
    "many": GOOD + "z: [" + "1," * MAX_NODES + "]\n",
}
MEASURE = """
import json, sys, time
from pathlib import Path
from medcalib.config import load
from medcalib.errors import ConfigError
def peak():
    return next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith("VmHWM"))
try:
    load(Path(sys.argv[1]))  # what loading imports is not counted
except ConfigError:
    pass
for path in sorted(Path(sys.argv[2]).iterdir()):
    before, started = peak(), time.process_time()
    try:
        text = str(load(path))
    except ConfigError as error:
        text = f"refused {error}"
    found = {"name": path.stem, "text": text, "seconds": time.process_time() - started, "mb": (peak() - before) / 1024}
    print(json.dumps(found))
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("hostile")
    for name, text in HOSTILE.items():
        (folder / f"{name}.yaml").write_text(text, encoding="utf-8")
    return folder


@pytest.fixture(scope="module")
def measured(folder: Path) -> dict[str, dict[str, Any]]:
    """What a process of its own says of each file, with CPU seconds and growth of its memory."""
    done = subprocess.run(
        [sys.executable, "-c", MEASURE, str(bundled()["phantom"]), str(folder)],
        capture_output=True, text=True, check=True, timeout=300,
    )  # fmt: skip
    return {found["name"]: found for found in map(json.loads, done.stdout.splitlines())}


@pytest.mark.skipif(sys.platform != "linux", reason="needs /proc")
@pytest.mark.parametrize(
    ("name", "words"),
    [
        pytest.param("aliases", "anchors and aliases are not allowed", marks=pytest.mark.fault(6)),
        pytest.param("anchors", "anchors and aliases are not allowed", marks=pytest.mark.fault(6)),
        pytest.param("merge", "anchors and aliases are not allowed", marks=pytest.mark.fault(6)),
        pytest.param("brackets", "nested deeper than 50 levels", marks=pytest.mark.fault(7)),
        pytest.param("braces", "nested deeper than 50 levels", marks=pytest.mark.fault(7)),
        pytest.param("dashes", "nested deeper than 50 levels", marks=pytest.mark.fault(7)),
        pytest.param("indented", "nested deeper than 50 levels", marks=pytest.mark.fault(7)),
        pytest.param("large", "1,048,579 bytes; a config has at most 1,048,576", marks=pytest.mark.fault(8)),
        pytest.param("many", "a config has at most 50,000 keys and values", marks=pytest.mark.fault(8)),
    ],
)
def test_a_bomb_is_refused_in_bounded_time_and_memory(
    measured: dict[str, dict[str, Any]], name: str, words: str, record_property: Callable[[str, object], None]
) -> None:
    """A second is what a user should wait; a loaded machine gets ten. Only very many nodes take seconds."""
    found = measured[name]
    assert found["text"].startswith("refused ")
    assert words in found["text"]
    assert found["text"].count("\n") == 0
    assert found["seconds"] < (30 if name == "many" else 10)
    assert found["mb"] < 100
    record_property("measured", f"{name}: refused after {found['seconds']:.2f} s of CPU and {found['mb']:.0f} MB")


@pytest.mark.fault(6, 7, 8)
@pytest.mark.parametrize("name", ["aliases", "brackets", "large"])
def test_the_command_ends_with_2_and_one_line(folder: Path, name: str) -> None:
    found = CliRunner().invoke(app, ["check", str(folder / f"{name}.yaml")])
    assert found.exit_code == 2
    assert found.stderr.count("\n") == 1
    assert "Traceback" not in found.output


def refusal(tmp_path: Path, text: str, **options: Any) -> str:
    (tmp_path / "c.yaml").write_text(text, encoding="utf-8")
    with pytest.raises(ConfigError) as caught:
        load(tmp_path / "c.yaml", **options)
    return str(caught.value).replace(f"{tmp_path}/", "")


@pytest.mark.fault(1)
def test_very_many_unknown_keys_are_all_named(tmp_path: Path) -> None:
    """The schema that tells what keys there are is made once, not once a key: a tenth of a second each."""
    lines = refusal(tmp_path, GOOD + "".join(f"k{k}: 1\n" for k in range(200))).splitlines()
    assert len(lines) == 200
    assert all(f": k{k}: unknown key; known: name, data" in line for k, line in enumerate(lines))


@pytest.mark.fault(11)
def test_very_many_codes_of_a_class_are_judged(tmp_path: Path) -> None:
    """Counted in one pass: every code against every other would be 4 * 10^8 comparisons."""
    text = GOOD.replace("  labels:", f"  labels: {{background: 0, x: [{','.join(['7'] * 20_000)}]}}\n  was:")
    assert "data.labels: code 7 belongs to two classes; each code belongs to one" in refusal(tmp_path, text)


@pytest.mark.parametrize(
    "text",
    [
        '"a\\nb": 1\n',
        '"a\\x1b[31mb": 1\n',
        '"a\\u2028b": {c: 1}\n',
        'name: "x\\x07"\n',
        "name: !<a\x85b> x\n",
        'loss: "m\\x1bbls"\n',
        'data: {layout: "\\x1b"}\n',
    ],
)
def test_no_key_or_value_steers_a_terminal_or_begins_a_line(tmp_path: Path, text: str) -> None:
    lines = refusal(tmp_path, text).splitlines()
    assert all(line.isprintable() and line.startswith("c.yaml:") for line in lines)


@pytest.mark.fault(15)
@pytest.mark.parametrize("override", ["a\x1bb", "a\nb=1", "train.lr=\x1b", 'train.lr="\\x1b"', "a.\x07.b=1"])
def test_no_override_steers_a_terminal_or_begins_a_line(tmp_path: Path, override: str) -> None:
    lines = refusal(tmp_path, GOOD, overrides=[override]).splitlines()
    assert all(line.isprintable() and line.startswith("--set ") for line in lines)


@pytest.mark.fault(9)
@pytest.mark.parametrize("size", ["1001", "[3, 3, 1001]", "9" * 29])
@pytest.mark.parametrize("loss", ["nacl", "crac", "svls"])
def test_a_window_that_would_fill_memory_is_refused(tmp_path: Path, loss: str, size: str) -> None:
    text = refusal(tmp_path, GOOD, overrides=[f"loss={{name: {loss}, kernel_size: {size}}}"])
    assert "loss.kernel_size: kernel_size must be at most 51, got " in text


@pytest.mark.fault(5)
def test_what_other_tools_would_run_is_plain_text(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    texts = ["$(touch canary)", "${oc.env:HOME}", "$import os", "{{ 7*7 }}", "__import__('os').mkdir('canary')"]
    for text in texts:
        config = load(bundled()["phantom"], overrides=[f"data.root='{text.replace(chr(39), chr(39) * 2)}'"])
        assert config.data.root == text
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("pattern", ["(", "a{99999999999999999999}", "(" * 5000])
def test_a_pattern_that_is_none_is_refused(tmp_path: Path, pattern: str) -> None:
    text = refusal(tmp_path, GOOD, overrides=[f"data.layout={{name: files, patient: '{pattern}'}}"])
    assert "data.layout.patient: patient is no regular expression" in text
