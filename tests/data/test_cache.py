"""The cache on disk: never stale, never wrong, never in the way; and nothing in it is executed."""

from __future__ import annotations

import multiprocessing
from pathlib import Path
from typing import Any, NoReturn

import nibabel as nib
import numpy as np
import pytest
import torch

from medcalib.data import cache as module
from medcalib.data.cache import DiskCached
from medcalib.data.case import Case
from medcalib.data.transforms import Item
from medcalib.errors import ConfigError, DataError

SETTINGS = {"spacing_mm": [1.0, 1.0, 1.0]}


def write_volume(path: Path, value: float) -> Path:
    nib.save(nib.Nifti1Image(np.full((4, 3, 2), value, np.float32), np.eye(4)), path)
    return path


def read(case: Case) -> Item:
    image = torch.from_numpy(np.asarray(nib.load(case.images[0]).dataobj, np.float32))[None]
    return {"image": image, "label": (image[0] > 0).to(torch.uint8), "affine": np.diag([1.5, 1, 1, 1])}


class Counting:
    """`read`, which knows how often it was asked."""

    def __init__(self) -> None:
        self.calls: list[str] = []

    def __call__(self, case: Case) -> Item:
        self.calls.append(case.id)
        return read(case)


@pytest.fixture
def cases(tmp_path: Path) -> list[Case]:
    (tmp_path / "data").mkdir()
    names = {"a": 1.0, "b": 2.0, "c": 3.0}
    return [Case(name, name, (write_volume(tmp_path / "data" / f"{name}.nii.gz", v),)) for name, v in names.items()]


def assert_same(item: Item, expected: Item) -> None:
    assert item.keys() == expected.keys()
    for name in ("image", "label"):
        assert torch.equal(item[name], expected[name])
        assert item[name].dtype == expected[name].dtype
    assert isinstance(item["affine"], np.ndarray)
    assert np.array_equal(item["affine"], expected["affine"])


def test_items_are_computed_once_for_all_runs(cases: list[Case], tmp_path: Path) -> None:
    compute = Counting()
    first = DiskCached(cases, compute, tmp_path / "cache", SETTINGS)
    assert sorted(compute.calls) == ["a", "b", "c"]
    again = DiskCached(cases[1:], compute, tmp_path / "cache", SETTINGS)
    for index, case in enumerate(cases):
        assert_same(first[index], read(case))
    assert_same(again[1], read(cases[2]))
    assert len(compute.calls) == 3
    assert (len(first), len(again)) == (3, 2)
    assert not list((tmp_path / "cache").glob(".tmp-*"))


@pytest.mark.fault(69)
def test_the_key_is_the_content(cases: list[Case], tmp_path: Path) -> None:
    """Fault 69, stale: edited data and other settings are computed; a moved file is not."""
    compute = Counting()
    DiskCached(cases, compute, tmp_path / "cache", SETTINGS)
    compute.calls.clear()
    moved = cases[0].images[0].rename(tmp_path / "elsewhere.nii.gz")
    DiskCached([Case("z", "z", (moved,))], compute, tmp_path / "cache", SETTINGS)
    assert compute.calls == []
    write_volume(cases[1].images[0], 7.0)
    edited = DiskCached(cases[1:], compute, tmp_path / "cache", SETTINGS)
    assert compute.calls == ["b"]
    assert edited[0]["image"].unique().tolist() == [7.0]
    DiskCached(cases[1:], compute, tmp_path / "cache", {"spacing_mm": [2.0, 1.0, 1.0]})
    assert sorted(compute.calls) == ["b", "b", "c"]


def flip(path: Path, place: int) -> None:
    raw = bytearray(path.read_bytes())
    raw[place] ^= 1
    path.write_bytes(raw)


DAMAGE = {
    "a bit of a voxel": lambda path: flip(path, len(path.read_bytes()) // 2),
    "the last bit": lambda path: flip(path, -1),
    "a bit of the header": lambda path: flip(path, 20),
    "the header's length": lambda path: flip(path, 1),
    "truncated": lambda path: path.write_bytes(path.read_bytes()[:-9]),
    "empty": lambda path: path.write_bytes(b""),
    "something else": lambda path: path.write_bytes(b"\x80\x04cos\nsystem\n"),
}


@pytest.mark.fault(69)
@pytest.mark.parametrize("what", DAMAGE)
def test_damaged_entries_are_made_anew_with_one_warning(
    cases: list[Case], tmp_path: Path, caplog: pytest.LogCaptureFixture, what: str
) -> None:
    """Fault 69, corrupt."""
    DiskCached(cases, read, tmp_path / "cache", SETTINGS)
    good = {path: path.read_bytes() for path in (tmp_path / "cache").iterdir()}
    for path in good:
        DAMAGE[what](path)
    compute = Counting()
    cached = DiskCached(cases, compute, tmp_path / "cache", SETTINGS)
    for _ in range(2):
        for index, case in enumerate(cases):
            assert_same(cached[index], read(case))
    assert sorted(compute.calls) == ["a", "b", "c"]
    assert caplog.text.count("damaged and is made anew") == 1
    assert {path: path.read_bytes() for path in (tmp_path / "cache").iterdir()} == good


@pytest.mark.fault(68, 69)
def test_a_full_disk_costs_time_only(
    cases: list[Case], tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(tensors: Any, path: Path, metadata: Any) -> None:
        path.write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(module, "save_file", full)
    cached = DiskCached(cases, read, tmp_path / "cache", SETTINGS)
    for index, case in enumerate(cases):
        assert_same(cached[index], read(case))
    assert caplog.text.count("No space left on device") == 1
    assert list((tmp_path / "cache").iterdir()) == []


@pytest.mark.fault(69)
def test_a_folder_of_no_use_is_refused_at_once(cases: list[Case], tmp_path: Path, monkeypatch: Any) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match=r"cannot be made: .*--set train\.cache_dir=DIR"):
        DiskCached(cases, read, tmp_path / "file", SETTINGS)
    monkeypatch.setattr(module.os, "access", lambda *_: False)  # root may write anywhere
    with pytest.raises(ConfigError, match=r"may not be read; .*train\.cache to memory"):
        DiskCached(cases, read, tmp_path / "cache", SETTINGS)


@pytest.mark.fault(69)
def test_a_folder_that_may_only_be_read_is_read(
    cases: list[Case], tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What it holds is taken; what it lacks, or holds damaged, is computed each time and not written."""
    DiskCached(cases[:2], read, tmp_path / "cache", SETTINGS)
    flip(max((tmp_path / "cache").iterdir()), -1)
    before = {path: path.read_bytes() for path in (tmp_path / "cache").iterdir()}
    monkeypatch.setattr(module.os, "access", lambda _, mode: not mode & module.os.W_OK)  # root may write anywhere
    compute = Counting()
    cached = DiskCached(cases, compute, tmp_path / "cache", SETTINGS)
    for index, case in enumerate(cases):
        assert_same(cached[index], read(case))
    assert compute.calls.count("c") == 2  # at the start, where a refusal would be told, and when it is asked for
    assert len(compute.calls) == 3
    assert caplog.text.count("may only be read") == 1
    assert {path: path.read_bytes() for path in (tmp_path / "cache").iterdir()} == before


def test_what_is_refused_is_refused_at_the_start(cases: list[Case], tmp_path: Path) -> None:
    def refuse(case: Case) -> Item:
        raise DataError("bad", f"{case.id} is bad")

    with pytest.raises(DataError, match="a is bad"):
        DiskCached(cases, refuse, tmp_path / "cache", SETTINGS)


def test_headers_with_voxels_elsewhere_are_not_cached(tmp_path: Path, cases: list[Case]) -> None:
    """Their bytes would stay the same where the voxels change."""
    compute = Counting()
    case = Case("h", "h", (cases[0].images[0].rename(tmp_path / "h.mhd"),))
    with pytest.raises(nib.filebasedimages.ImageFileError):
        DiskCached([case], compute, tmp_path / "cache", SETTINGS)
    assert compute.calls == ["h"]
    assert list((tmp_path / "cache").iterdir()) == []


def fill(cases: list[Case], folder: Path) -> None:
    for _ in range(5):
        cached = DiskCached(cases, read, folder, SETTINGS)
        for index, case in enumerate(cases):
            assert_same(cached[index], read(case))
        for path in folder.glob("*.safetensors"):
            path.unlink(missing_ok=True)


def test_processes_share_a_folder(cases: list[Case], tmp_path: Path) -> None:
    """One may even remove what another is about to read."""
    context = multiprocessing.get_context("fork")
    both = [context.Process(target=fill, args=(cases, tmp_path / "cache")) for _ in range(2)]
    for process in both:
        process.start()
    for process in both:
        process.join()
    assert [process.exitcode for process in both] == [0, 0]


def test_an_entry_removed_while_it_is_opened_is_made_again(
    cases: list[Case], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """safetensors opens a file twice; where it is gone the second time, torch raises a RuntimeError."""
    cached = DiskCached(cases, read, tmp_path / "cache", SETTINGS)

    def gone(path: Path, check: bool) -> NoReturn:
        path.unlink()
        raise RuntimeError(f"unable to open file <{path}> in read-only mode: No such file or directory (2)")

    monkeypatch.setattr("medcalib.data.cache._load", gone)
    assert_same(cached[0], read(cases[0]))
    assert not caplog.records
