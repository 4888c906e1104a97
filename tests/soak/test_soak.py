"""The soak with few cases; `make soak` takes 2,000."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from soak import soaked


@pytest.mark.slow
@pytest.mark.fault(77)
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="looks into /proc")
def test_killed_and_resumed_is_undisturbed(tmp_path: Path, record_property: Callable[[str, object], None]) -> None:
    found = soaked(tmp_path, cases=40, shards=2, kills=4, seed=1)
    assert found["differing"] == []
    assert (found["cases"], found["files"]) == (39, 39)
    assert sum(found["kills"].values()) >= 2
    kills = sum(found["kills"].values())
    record_property("measured", f"{found['cases']} cases, {kills} kills in {found['starts']} starts: the same bytes")
