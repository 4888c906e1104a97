"""Small files that claim or unpack to volumes larger than memory are refused before the memory is taken."""

from __future__ import annotations

import gzip
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from medcalib.data.nifti import write_volume

CHILD = """
import json, sys, time
from pathlib import Path
from medcalib.data.load import read_any
from medcalib.errors import DataError
import SimpleITK
def peak():
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM")) / 1024
found, before = {}, peak()
for path in map(Path, sys.argv[1:]):
    began = time.process_time()
    try:
        read_any(path)
        reason = "read"
    except DataError as error:
        reason = error.reason
    found[path.name] = reason, time.process_time() - began, peak() - before
print(json.dumps(found))
"""


def bombs(folder: Path) -> dict[str, str]:
    """File name -> the reason that it must be refused by; the numbers in a header are little-endian int16."""
    write_volume(folder / "base.nii", np.zeros((3, 4, 5), np.float64), np.eye(4))
    base = (folder / "base.nii").read_bytes()
    (folder / "base.nii").unlink()
    sizes = {"impossible": (32767, 32767, 32767), "at_the_limit": (1290, 1290, 1290)}
    found = {}
    for name, shape in sizes.items():
        raw = base[:42] + np.array(shape, "<i2").tobytes() + base[48:]
        reason = "too_large" if name == "impossible" else "truncated"
        (folder / f"{name}.nii").write_bytes(raw)
        (folder / f"{name}.nii.gz").write_bytes(gzip.compress(raw))
        text = f"ObjectType = Image\nNDims = 3\nDimSize = {shape[0]} {shape[1]} {shape[2]}\nElementType = MET_DOUBLE\n"
        (folder / f"{name}.mha").write_bytes(text.encode() + b"ElementDataFile = LOCAL\n" + bytes(500))
        nrrd = f"NRRD0004\ntype: double\ndimension: 3\nsizes: {shape[0]} {shape[1]} {shape[2]}\nendian: little\n"
        (folder / f"{name}.nrrd").write_bytes(nrrd.encode() + b"encoding: raw\n\n" + bytes(500))
        found |= {f"{name}{suffix}": reason for suffix in (".nii", ".nii.gz", ".mha", ".nrrd")}
    zeros = bytes(300_000_000)
    far = base[:108] + np.array([2.9e8], "<f4").tobytes() + base[112:]
    (folder / "behind.nii.gz").write_bytes(gzip.compress(base + zeros, 1))
    (folder / "before.nii.gz").write_bytes(gzip.compress(far + zeros, 1))
    nrrd = b"NRRD0004\ntype: double\ndimension: 3\nsizes: 3 4 5\nendian: little\nencoding: gzip\n\n"
    (folder / "behind.nrrd").write_bytes(nrrd + gzip.compress(zeros, 1))
    return found | {
        "behind.nii.gz": "trailing_data", "before.nii.gz": "bad_header", "behind.nrrd": "trailing_data"
    }  # fmt: skip


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="memory is measured by Linux's /proc")
@pytest.mark.fault(26, 27)
def test_bombs_are_refused_within_a_second_and_200_mb(
    tmp_path: Path, record_property: Callable[[str, object], None]
) -> None:
    """Headers of 256 TiB, headers of 17 GB (below the limit) in small files, and 300 MB of zeros before and behind the
    voxels. Seconds are of the CPU, memory beyond that of the imports, both by a process of its own."""
    expected = bombs(tmp_path)
    found: dict[str, Any] = measured([tmp_path / name for name in expected])
    assert {name: reason for name, (reason, _, _) in found.items()} == expected
    seconds, memory = (max(row[k] for row in found.values()) for k in (1, 2))
    record_property(
        "measured", f"{len(found)} bombs refused, each in less than {seconds:.3f} s of CPU and {memory:.0f} MB"
    )
    assert seconds < 1
    assert memory < 200


def measured(paths: list[Path]) -> dict[str, Any]:
    run = subprocess.run(
        [sys.executable, "-c", CHILD, *map(str, paths)], capture_output=True, text=True, check=True, timeout=300
    )
    found: dict[str, Any] = json.loads(run.stdout)
    return found
