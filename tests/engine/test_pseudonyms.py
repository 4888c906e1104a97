"""Scores under pseudonyms: the same numbers, and no byte that names a case or a patient."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from flat import SCORES, write_flat

from medcalib.engine.evaluate import evaluate
from medcalib.engine.pseudonyms import Pseudonyms, pseudonymize
from medcalib.engine.shards import Shard
from medcalib.errors import ConfigError, DataRefusedError
from medcalib.metrics import CaseScores

KEY = b"sixteen bytes or more"


@pytest.fixture(scope="module")
def scores(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("named")
    evaluate(*write_flat(folder, 6), folder / "scores")
    return folder / "scores"


@pytest.mark.fault(76)
def test_no_name_is_left_and_no_number_changes(scores: Path, tmp_path: Path) -> None:
    names = Pseudonyms(KEY)
    found = pseudonymize(scores, tmp_path, names)
    before = json.loads((scores / SCORES).read_text())
    assert found["pooled"]["all"]["ece"] == before["pooled"]["all"]["ece"]
    for case, numbers in before["cases"].items():
        assert found["cases"][names.case(case)] == numbers | {"patient_id": names.patient(case)}
    assert sorted(e["reason"] for e in found["refused"]) == sorted(e["reason"] for e in before["refused"])
    stored = list(tmp_path.iterdir())
    assert len(stored) == 5
    for path in stored:
        told = path.name.encode() + path.read_bytes()
        if path.suffix == ".npz":
            case = CaseScores.load(path)
            told += f"{case.case_id} {case.patient_id} {case.warnings} {case.inputs}".encode()
        assert b"case_" not in told


def test_the_key_decides(scores: Path) -> None:
    one, again, other = Pseudonyms(KEY), Pseudonyms(KEY), Pseudonyms(KEY + b"!")
    assert one.case("a") == again.case("a") != other.case("a")
    assert len({one.case("a"), one.case("b"), one.patient("a").replace("patient", "case")}) == 3


def test_short_keys_and_shards_are_refused(scores: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="16 bytes or more, got 5"):
        Pseudonyms(b"short")
    with pytest.raises(ConfigError, match="read from"):
        pseudonymize(scores, scores, Pseudonyms(KEY))
    evaluate(*write_flat(tmp_path, 3), tmp_path / "part", shard=Shard(0, 2))
    with pytest.raises(DataRefusedError, match="medcalib merge"):
        pseudonymize(tmp_path / "part", tmp_path / "out", Pseudonyms(KEY))
