"""Shards are disjoint and complete, and nonsense is refused with the fix."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from medcalib.engine.shards import Shard, shard_files
from medcalib.errors import ConfigError


@given(st.integers(0, 40), st.integers(1, 50))
def test_every_case_is_in_one_shard_and_sizes_differ_by_at_most_one(cases: int, count: int) -> None:
    names = [f"{k:02d}" for k in range(cases)]
    shards = [Shard(index, count).of(names) for index in range(count)]
    assert sorted(name for shard in shards for name in shard) == names
    assert max(map(len, shards)) - min(map(len, shards)) <= 1


def test_neighbors_are_in_different_shards() -> None:
    assert Shard.parse("1/3").of(["a", "b", "c", "d", "e"]) == ["b", "e"]


@pytest.mark.parametrize("text", ["4/4", "-1/4", "5/4", "0/0", "1/-2"])
def test_a_shard_that_does_not_exist_is_refused_with_those_that_do(text: str) -> None:
    with pytest.raises(ConfigError, match=f"no shard {text}: shards are counted from 0") as found:
        Shard.parse(text)
    if text == "4/4":
        assert str(found.value).endswith("4 of them are 0/4 to 3/4")


@pytest.mark.parametrize("text", ["", "1", "a/b", "1/2/3", "0.5/2", "1 / 2", "\u0661/4", "1/99999999999999999999"])
def test_text_that_names_no_shard_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match=r"expected i/N with i from 0 to N-1, such as 0/4"):
        Shard.parse(text)


def test_the_files_of_shards_are_told_from_others(tmp_path: Path) -> None:
    for name in (
        "shard-0-of-2.json",
        "shard-x-of-2.json",
        "scores.json",
        "shard-1-of-2.json.bak",
        "shard-2-of-2.json",
        ".shard-1-of-2.json",
    ):
        (tmp_path / name).write_text("{}")
    assert shard_files(tmp_path) == {tmp_path / "shard-0-of-2.json": Shard(0, 2)}
    assert Shard(0, 2).file == "shard-0-of-2.json"
