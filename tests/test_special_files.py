"""Pipes, devices and symbolic links in folders that somebody else filled: no hang, and nothing written elsewhere."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from medcalib.data.load import read_any
from medcalib.engine.run import METRICS, append_metrics
from medcalib.errors import DataError
from medcalib.files import appending, read_json, remove_abandoned, sha256

pytestmark = pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="this system has no named pipes")


@pytest.mark.parametrize("name", ["x.nii.gz", "x.nii", "x.mhd", "x.nrrd", "x.json"])
@pytest.mark.parametrize("kind", ["pipe", "device"])
def test_a_pipe_or_device_named_as_a_file_is_refused_at_once(tmp_path: Path, name: str, kind: str) -> None:
    path = tmp_path / name
    if kind == "pipe":
        os.mkfifo(path)
    else:
        path.symlink_to("/dev/zero")
    read = read_json if name == "x.json" else read_any
    with pytest.raises(DataError, match="no regular file"):
        read(path)
    with pytest.raises(OSError, match="no regular file"):
        sha256(path)


@pytest.mark.fault(17)
@pytest.mark.parametrize("exists", [True, False])
def test_lines_of_a_run_are_not_appended_through_a_link(tmp_path: Path, exists: bool) -> None:
    outside = tmp_path / "outside"
    if exists:
        outside.write_text("mine\n")
    run = tmp_path / "run"
    run.mkdir()
    (run / METRICS).symlink_to(outside)
    with pytest.raises(OSError, match="symbolic link"):
        append_metrics(run, {"epoch": 1})
    assert (outside.read_text() == "mine\n") if exists else not outside.exists()


def test_appending_adds_to_the_end(tmp_path: Path) -> None:
    for text in (b"one\n", b"two\n"):
        with appending(tmp_path / "log") as stream:
            stream.write(text)
    assert (tmp_path / "log").read_bytes() == b"one\ntwo\n"


def test_only_temporary_files_of_medcalib_are_removed_as_abandoned(tmp_path: Path) -> None:
    own, foreign = tmp_path / ".tmp-0123456789ab-case.npz", tmp_path / ".tmp-upload"
    for path in (own, foreign):
        path.write_bytes(b"half")
    remove_abandoned(tmp_path, older_than_s=-60.0)
    assert (own.exists(), foreign.exists()) == (False, True)
