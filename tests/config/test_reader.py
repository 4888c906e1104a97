"""YAML becomes plain data with places, or is refused at its place: fast, and without running anything."""

from __future__ import annotations

import math
import time
from pathlib import Path

import pytest

from medcalib.config.reader import MAX_BYTES, parse_yaml, read_yaml, scalar
from medcalib.errors import ConfigError


def refusal(content: str | bytes, tmp_path: Path) -> str:
    """What is said of a file, in less than the second or two that a user would wait."""
    path = tmp_path / "bad.yaml"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    started = time.process_time()
    with pytest.raises(ConfigError) as caught:
        read_yaml(path)
    assert time.process_time() - started < 5
    return str(caught.value).removeprefix(f"{tmp_path}/")


@pytest.mark.fault(3)
@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1e-3", 0.001),
        ("1E3", 1000.0),
        ("-.5", -0.5),
        ("3.", 3.0),
        ("+7", 7),
        ("007", 7),
        ("true", True),
        ("False", False),
        ("null", None),
        ("~", None),
        ("", None),
        (".inf", math.inf),
        ("-.INF", -math.inf),
        ("no", "no"),
        ("Yes", "Yes"),
        ("on", "on"),
        ("1_000", "1_000"),
        ("0x1F", "0x1F"),
        ("12:30", "12:30"),
        ("2024-01-01", "2024-01-01"),
        ("e3", "e3"),
        (".", "."),
        ("1e", "1e"),
    ],
)
def test_scalars_follow_yaml_1_2(text: str, value: object) -> None:
    found = scalar(text)
    assert found == value
    assert type(found) is type(value)


@pytest.mark.fault(3)
def test_nan_is_a_number_and_quoted_scalars_are_text() -> None:
    assert math.isnan(scalar(".nan"))
    assert parse_yaml("{a: '1', b: \"true\", c: 'null'}", "f").data == {"a": "1", "b": "true", "c": "null"}


def test_every_key_and_entry_has_its_place() -> None:
    source = parse_yaml("a: 1\nb:\n  c: [10, {d: 2}]\n", "f.yaml")
    assert source.data == {"a": 1, "b": {"c": [10, {"d": 2}]}}
    places = {(): "1:1", ("a",): "1:1", ("b", "c"): "3:3", ("b", "c", 0): "3:7", ("b", "c", 1, "d"): "3:12"}
    assert {path: source.place(path) for path in places} == {p: f"f.yaml:{at}" for p, at in places.items()}
    assert source.place(("b", "c", 1, "missing")) == "f.yaml:3:11"


QUOTED = "write the value out, or put text that begins with & or * in quotes"


@pytest.mark.fault(2, 6, 7, 8, 13)
@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("a: 1\nb: 2\na: 3\n", "bad.yaml:3:1: key 'a' stands twice, first in line 1"),
        ("x: {k: 1, k: 2}\n", "bad.yaml:1:11: key 'k' stands twice, first in line 1"),
        ("a: &x 1\nb: *x\n", f"bad.yaml:1:4: anchors and aliases are not allowed; {QUOTED}"),
        ("a: *x\n", f"bad.yaml:1:4: anchors and aliases are not allowed; {QUOTED}"),
        ("<<: *x\n", f"bad.yaml:1:5: anchors and aliases are not allowed; {QUOTED}"),
        ("a: 1\n---\nb: 2\n", "bad.yaml:2:1: a second document; a config is one document"),
        ("? [a, b]\n: 1\n", "bad.yaml:1:3: a key must be plain text"),
        ("a: [1, 2\n", "bad.yaml:2:1: not valid YAML: expected ',' or ']' ([ was opened in line 1), got the end"),
        ("a:\n\t- b\n", "bad.yaml:2:1: not valid YAML: a tab where none may be; indent with spaces"),
        (
            "a: [images/{case}.nii]\n",
            "bad.yaml:1:12: not valid YAML: expected ',' or ']' ([ was opened in line 1), got {; put text that holds "
            "braces in quotes",
        ),
        ("a: 1\0", "bad.yaml:1:1: not valid YAML: unacceptable character #x0000: special characters are not allowed"),
        ("name: x\n".encode("utf-16"), "bad.yaml: is no UTF-8 text (byte 0); a config is YAML, saved as UTF-8"),
        (bytes(range(256)), "bad.yaml: is no UTF-8 text (byte 128); a config is YAML, saved as UTF-8"),
        ("[" * 20_000, "bad.yaml:1:51: nested deeper than 50 levels"),
        ("{a: " * 20_000, "bad.yaml:1:201: nested deeper than 50 levels"),
        ("- " * 20_000, "bad.yaml:1:101: nested deeper than 50 levels"),
        ("a: " + "x" * MAX_BYTES, "bad.yaml: has 1,048,579 bytes; a config has at most 1,048,576"),
    ],
)
def test_what_no_config_needs_is_refused_at_its_place(content: str | bytes, message: str, tmp_path: Path) -> None:
    assert refusal(content, tmp_path) == message


@pytest.mark.parametrize(
    ("content", "place", "words"),
    [
        ("a: @x\n", "1:4", "text cannot begin with '@'; put it in quotes"),
        ("a: b: c\n", "1:5", "a second `: ` in one line"),
        ("a: 1\nb:2\nc: 3\n", "2:1", "this line is no `key: value`; is the colon, or the space behind it, missing?"),
        ("a: 1\nb: 'x\nc: 3\n", "2:4", "the quote that opens here is never closed"),
        ('a: "C:\\data"\n', "1:8", "use single quotes, or / in paths"),
        ("a: *\n", "1:5", "text cannot begin with & or *"),
        ("a:\n   b: 1\n  c: 2\n", "3:3", "this line is indented otherwise than the lines around it"),
        ("a: [\n", "2:1", "a value is missing"),
    ],
)
def test_what_is_no_yaml_is_explained_where_it_can_be_corrected(
    content: str, place: str, words: str, tmp_path: Path
) -> None:
    told = refusal(content, tmp_path)
    assert told.startswith(f"bad.yaml:{place}: not valid YAML: ")
    assert words in told


@pytest.mark.fault(4)
@pytest.mark.parametrize(
    "tagged",
    ["!!python/object/apply:os.system ['touch canary']", "!!python/name:os.system ''", "!!int 3", "!custom {a: 1}"],
)
def test_a_tag_is_refused_and_nothing_is_executed(tagged: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    message = refusal(f"a: {tagged}\n", tmp_path)
    assert message.startswith("bad.yaml:1:4: the tag ")
    assert message.endswith(" is not allowed; a config holds plain data")
    assert not (tmp_path / "canary").exists()


@pytest.mark.fault(13)
def test_a_missing_file_and_a_folder_are_refused(tmp_path: Path) -> None:
    for path, reason in ((tmp_path / "absent.yaml", "No such file"), (tmp_path, "it is a folder; name the YAML")):
        with pytest.raises(ConfigError, match=f"{path}: cannot be read: {reason}"):
            read_yaml(path)


def test_a_byte_order_mark_and_windows_lines_are_read(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_bytes(b"\xef\xbb\xbfa: 1\r\nb: '2'\r\n")
    assert read_yaml(tmp_path / "a.yaml").data == {"a": 1, "b": "2"}
