"""Every input that fuzzing found worth keeping is read or refused as promised; `make fuzz` looks for more."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path

import pytest
from helpers import REPOSITORY

sys.path.insert(0, str(REPOSITORY))

from fuzz.harness import FindingError, attempt
from fuzz.targets import CORPUS, TARGETS, seeds
from medcalib.errors import ConfigError

FAULTS = {"config": (1, 3, 15), "nifti": (19, 26), "arrays": (40, 50, 51), "sidecar": (46,)}


@pytest.mark.parametrize("target", [pytest.param(name, marks=pytest.mark.fault(*FAULTS[name])) for name in TARGETS])
def test_the_corpus_holds_no_finding(target: str, tmp_path: Path) -> None:
    check = importlib.import_module(f"fuzz.{target}").check
    for seed in seeds(target):
        check(seed.read_bytes(), tmp_path)


def test_the_corpus_is_small_and_has_every_target() -> None:
    assert {path.name for path in CORPUS.iterdir()} == set(TARGETS)
    assert all(len(seeds(target)) >= 9 for target in TARGETS)
    assert sum(path.stat().st_size for target in TARGETS for path in seeds(target)) < 100_000


def test_what_a_finding_is() -> None:
    def refused(text: str) -> None:
        raise ConfigError(text)

    def broken() -> None:
        raise KeyError("x")

    assert attempt(lambda: 3) == 3
    assert attempt(lambda: refused("a\nb")) is None
    with pytest.raises(FindingError, match="control characters"):
        attempt(lambda: refused("a\x1b"))
    with pytest.raises(KeyError):
        attempt(broken)
