"""A deprecated name says since when, what to use, and when it goes; one in a config is told once and converted."""

from __future__ import annotations

import logging
import subprocess
import sys
from pathlib import Path

import pytest
from documented import blocks
from helpers import REPOSITORY
from typing_extensions import deprecated

from medcalib.config import load
from medcalib.config.bundled import bundled
from medcalib.config.deprecated import KEYS
from medcalib.deprecation import notice

OVERRIDES = ["data.root=nowhere", "train.tensorboard=true"]
TOLD = "train.tensorboard is deprecated since 0.1; use train.trackers: [tensorboard]. It will be removed in 0.3"


@pytest.mark.parametrize(("since", "removed"), [("0.1", "0.3"), ("0.9", "0.11"), ("1.0", "1.2")])
def test_a_notice_gives_two_minor_releases(since: str, removed: str) -> None:
    found = notice("a.b", since=since, use="a.c")
    assert found == f"a.b is deprecated since {since}; use a.c. It will be removed in {removed}"


@pytest.mark.parametrize("since", ["", "1", "0.", "0.1.2", "v0.1"])
def test_what_is_no_version_is_refused(since: str) -> None:
    with pytest.raises(ValueError, match="since must be a version"):
        notice("a", since=since, use="b")


def test_a_deprecated_function_warns_whoever_calls_it() -> None:
    @deprecated(notice("old", since="0.1", use="new"))
    def old() -> int:
        return 3

    with pytest.warns(DeprecationWarning, match="use new") as told:
        assert old() == 3
    assert told[0].filename == __file__


def test_a_deprecated_key_is_told_at_its_place_and_converted(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    text = bundled()["phantom"].read_text("utf-8")
    assert "\ntrain:\n" in text
    path = tmp_path / "mine.yaml"
    path.write_text(text.replace("\ntrain:\n", "\ntrain:\n  tensorboard: true\n"), "utf-8")
    line = text[: text.index("\ntrain:\n")].count("\n") + 3
    config = load(path, data="nowhere")
    assert config.train.trackers == ("tensorboard",)
    assert [record.getMessage() for record in caplog.records] == [f"warning: {path}:{line}:3: {TOLD}"]
    assert caplog.records[0].levelno == logging.WARNING


def test_what_a_run_has_saved_is_converted_without_a_word(caplog: pytest.LogCaptureFixture) -> None:
    config = load(bundled()["phantom"], overrides=OVERRIDES, saved=True)
    assert config.train.trackers == ("tensorboard",)
    assert not caplog.records


def test_keys_that_are_not_deprecated_are_not_told(caplog: pytest.LogCaptureFixture) -> None:
    load(bundled()["phantom"], overrides=["train.trackers=[tensorboard]"])
    assert not caplog.records


def test_the_page_shows_what_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    page = blocks(REPOSITORY / "docs" / "configs.md")
    config = next(block.text for block in page if block.language == "yaml")
    monkeypatch.chdir(tmp_path)
    Path("my.yaml").write_text(config.replace("train: {", "train: {tensorboard: true, "), "utf-8")
    load(Path("my.yaml"))
    assert caplog.records[0].getMessage() in [block.text.strip() for block in page if block.language == "text"]


@pytest.mark.parametrize("path", KEYS, ids=".".join)
def test_no_deprecated_key_is_shipped_or_advised(path: tuple[str, ...]) -> None:
    for config in bundled().values():
        assert f"{path[-1]}: true" not in config.read_text("utf-8")


def test_the_command_line_says_it_once_in_one_line(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "medcalib", "check", "phantom", "--data", tmp_path]
    options = ["--set", "train.tensorboard=true"]
    found = subprocess.run([*command, *options], capture_output=True, text=True, check=False)
    assert found.stderr.splitlines().count(f"warning: --set train.tensorboard: {TOLD}") == 1
    assert "Traceback" not in found.stderr
    assert TOLD not in found.stdout
