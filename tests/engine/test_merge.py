"""Shards merge to the bytes of one run, in any order and any number of times; what does not fit is named."""

from __future__ import annotations

import itertools
import json
import shutil
import zipfile
from pathlib import Path

import pytest
from flat import BAD, SCORES, contents, write_flat

from medcalib.engine.evaluate import evaluate
from medcalib.engine.merge import merge
from medcalib.engine.shards import Shard
from medcalib.errors import DataError, DataRefusedError


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Flat folders `predictions` and `labels`, `whole` scores, and those of three shards in folders of their own."""
    folder = tmp_path_factory.mktemp("shards")
    pair = write_flat(folder)
    evaluate(*pair, folder / "whole")
    for index, workers in enumerate((1, 2, 1)):
        evaluate(*pair, folder / f"part{index}", shard=Shard(index, 3), workers=workers)
    return folder


@pytest.fixture
def own(shared: Path, tmp_path: Path) -> Path:
    """A copy that a test may change."""
    return Path(shutil.copytree(shared, tmp_path / "own"))


def refusal(*arguments: object) -> str:
    with pytest.raises(DataRefusedError) as found:
        merge(*arguments)  # type: ignore[arg-type]
    return str(found.value)


@pytest.mark.parametrize("order", list(itertools.permutations(range(3))))
def test_three_shards_in_any_order_are_one_run(shared: Path, tmp_path: Path, order: tuple[int, ...]) -> None:
    found = merge([shared / f"part{index}" for index in order], tmp_path / "scores")
    assert contents(tmp_path / "scores") == contents(shared / "whole")
    assert found == json.loads((shared / "whole" / SCORES).read_text())


@pytest.mark.parametrize("count", [1, 2, 8, 11])
def test_any_number_of_shards_in_one_folder_is_one_run(shared: Path, tmp_path: Path, count: int) -> None:
    out = tmp_path / "scores"
    for index in reversed(range(count)):
        evaluate(shared / "predictions", shared / "labels", out, shard=Shard(index, count))
    merge([out], out)
    assert contents(out) == contents(shared / "whole")
    merge([out], out)
    assert contents(out) == contents(shared / "whole")


def test_merging_again_or_into_one_of_them_changes_nothing(own: Path) -> None:
    parts = [own / f"part{index}" for index in range(3)]
    for _ in range(2):
        merge(parts, own / "part0")
        assert contents(own / "part0") == contents(own / "whole")
    merge([own / "part0"], own / "part0")
    assert contents(own / "part0") == contents(own / "whole")


def test_one_whole_run_is_its_own_merge(shared: Path, tmp_path: Path) -> None:
    merge([shared / "whole"], tmp_path / "scores")
    assert contents(tmp_path / "scores") == contents(shared / "whole")


@pytest.mark.fault(77)
def test_the_same_shard_given_twice_counts_once(shared: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    shutil.copytree(shared / "part1", tmp_path / "again")
    parts = [shared / "part1", tmp_path / "again", shared / "part0", shared / "part2", shared / "part2"]
    with caplog.at_level("INFO"):
        merge(parts, tmp_path / "scores")
    assert "3 cases were given again" in caplog.text
    assert contents(tmp_path / "scores") == contents(shared / "whole")


def test_other_compression_of_the_same_arrays_is_no_conflict(own: Path, tmp_path: Path) -> None:
    shutil.copytree(own / "part0", own / "again")
    path = own / "again" / "case_0.npz"
    with zipfile.ZipFile(path) as packed:
        members = [(name, packed.read(name)) for name in packed.namelist()]
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as stored:
        for name, data in members:
            stored.writestr(zipfile.ZipInfo(name), data)
    parts = [own / name for name in ("part0", "again", "part1", "part2")]
    merge(parts, tmp_path / "one")
    merge(parts[::-1], tmp_path / "two")
    assert contents(tmp_path / "one") == contents(tmp_path / "two")
    assert (tmp_path / "one" / SCORES).read_bytes() == (own / "whole" / SCORES).read_bytes()


@pytest.mark.fault(77)
def test_a_case_with_other_content_is_refused_by_name(own: Path, tmp_path: Path) -> None:
    shutil.copy(own / "labels" / "case_1.nii.gz", own / "labels" / "case_0.nii.gz")
    evaluate(own / "predictions", own / "labels", own / "again", shard=Shard(0, 3))
    text = refusal([own / f"part{k}" for k in range(3)] + [own / "again"], tmp_path / "scores")
    assert text.count("error:") == 1
    assert "case_0: different content in" in text
    assert "leave out the outdated folder" in text
    assert not (tmp_path / "scores").exists()


def test_a_case_scored_here_and_refused_there_is_refused_by_name(own: Path, tmp_path: Path) -> None:
    (own / "predictions" / "case_0.nii.gz").unlink()
    evaluate(own / "predictions", own / "labels", own / "again", shard=Shard(0, 3))
    text = refusal([own / f"part{k}" for k in range(3)] + [own / "again"], tmp_path / "scores")
    assert "case_0: refused in one place, scored or refused" in text


def test_a_missing_shard_is_named_with_its_cases(shared: Path, tmp_path: Path) -> None:
    text = refusal([shared / "part0", shared / "part1"], tmp_path / "scores")
    assert text == ("error: shard 2/3: lacks case_2, case_5; run `medcalib score ... --shard 2/3` [missing_shard]")
    text = refusal([shared / "part1"], tmp_path / "scores")
    assert "shard 0/3: lacks case_0, case_3, case_6" in text
    assert "shard 2/3" in text


def test_shards_of_other_settings_are_not_mixed(own: Path, tmp_path: Path) -> None:
    path = own / "part1" / "shard-1-of-3.json"
    part = json.loads(path.read_text())
    path.write_text(json.dumps({**part, "score": {**part["score"], "bins": 10}, "split": "val"}))
    text = refusal([own / f"part{k}" for k in range(3)], tmp_path / "scores")
    assert "they differ in split, score; merge the shards of one run [different_runs]" in text


def test_a_file_of_another_case_or_with_other_regions_is_refused(own: Path, tmp_path: Path) -> None:
    shutil.copy(own / "part0" / "case_0.npz", own / "part0" / "case_3.npz")
    parts = [own / f"part{k}" for k in range(3)]
    assert "case_3.npz: it holds case case_0" in refusal(parts, tmp_path / "scores")


@pytest.mark.parametrize("text", ["{", "[]", "{}", '{"score": {"bins": "many"}}', '{"score": {}, "cases": 3}'])
def test_a_damaged_summary_is_named(own: Path, tmp_path: Path, text: str) -> None:
    (own / "part1" / "shard-1-of-3.json").write_text(text)
    with pytest.raises(DataError, match=r"part1/shard-1-of-3\.json is no"):
        merge([own / f"part{k}" for k in range(3)], tmp_path / "scores")


@pytest.mark.fault(16)
def test_a_summary_cannot_lead_out_of_its_folder(own: Path, tmp_path: Path) -> None:
    path = own / "whole" / SCORES
    numbers = json.loads(path.read_text())
    numbers["cases"]["../part0/case_0"] = numbers["cases"]["case_0"]
    path.write_text(json.dumps(numbers))
    with pytest.raises(DataError, match="cannot be a file name"):
        merge([own / "whole"], tmp_path / "scores")


def test_lost_counts_and_folders_without_scores_are_named(own: Path, tmp_path: Path) -> None:
    (own / "whole" / "case_0.npz").unlink()
    with pytest.raises(DataError, match=r"case_0\.npz is no readable case score"):
        merge([own / "whole"], tmp_path / "scores")
    with pytest.raises(DataError, match=r"holds no scores\.json and no shard"):
        merge([tmp_path], tmp_path / "scores")


def test_refusals_go_along(shared: Path, tmp_path: Path) -> None:
    found = merge([shared / f"part{k}" for k in (2, 0, 1)], tmp_path / "scores")
    assert [entry["case"] for entry in found["refused"]] == [BAD, "case_5"]
    assert (found["n_expected"], found["n_scored"]) == (8, 6)
