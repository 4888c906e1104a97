"""What patients may be named in, text fields of NIfTI and names of folders, reaches no output of the whole pipeline."""

from __future__ import annotations

import gzip
import io
import logging
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from tiny import SHORTEST
from typer.testing import CliRunner

from medcalib.cli import app
from medcalib.data.phantom import write_dataset
from medcalib.plain import PlainFormatter

CANARY = b"CANARY"
PRIVATE = {"config.yaml", "compare.json"}  # what a run and a comparison go on from: the data's folder stands there


def poison(path: Path) -> None:
    """Fill every text field and an extension of a volume."""
    image = nib.load(path)
    found = nib.Nifti1Image(np.asanyarray(image.dataobj), image.affine, image.header)
    for key, length in (("descrip", 80), ("aux_file", 24), ("intent_name", 16), ("db_name", 18)):
        found.header[key] = (CANARY + key.encode())[:length]
    found.header.extensions.append(nib.nifti1.Nifti1Extension("comment", CANARY + b" extension"))
    nib.save(found, path)


def unpacked(name: str, raw: bytes) -> Iterator[tuple[str, bytes]]:
    """The bytes of a file, and of all that is packed in it."""
    yield name, raw
    if raw[:2] == b"\x1f\x8b":
        yield f"{name}, unpacked", gzip.decompress(raw)
    if zipfile.is_zipfile(io.BytesIO(raw)):
        with zipfile.ZipFile(io.BytesIO(raw)) as packed:
            for member in packed.namelist():
                yield f"{name}/{member}", member.encode() + packed.read(member)


@pytest.mark.slow
@pytest.mark.fault(76)
def test_no_canary_leaves_the_data(tmp_path: Path, record_property: Callable[[str, object], None]) -> None:
    pytest.importorskip("matplotlib")
    data, out = tmp_path / "CANARY_Jane" / "CANARY_data", tmp_path / "out"
    write_dataset("acdc", 6, 0, data, shape=(28, 28, 6))
    volumes = [path for path in data.rglob("*.nii.gz") if nib.load(path).ndim == 3]
    for path in volumes:
        poison(path)
    stream = io.StringIO()
    handler = logging.StreamHandler(stream)
    handler.setFormatter(PlainFormatter())
    logging.getLogger().addHandler(handler)
    logging.getLogger("medcalib").setLevel(logging.INFO)

    def run(*arguments: object, code: int = 0) -> None:
        found = CliRunner().invoke(app, [str(argument) for argument in arguments])
        assert found.exit_code == code, (arguments, found.output, found.exception)
        stream.write(found.output)

    cache = ("train.cache=disk", f"train.cache_dir={tmp_path / 'CANARY_cache'}")
    sets = [part for option in (*SHORTEST, *cache) for part in ("--set", option)]
    pair = ["--predictions", out / "pred", "--labels", data, "--config", "phantom"]
    try:
        run("check", "phantom", "--data", data, *sets)
        run("train", "phantom", "--data", data, "--out", out / "run", *sets)
        run("calibrate", out / "run", "--out", out / "t.safetensors")
        run("predict", out / "run", "--out", out / "pred")
        run("apply", out / "t.safetensors", "--predictions", out / "pred", "--out", out / "applied")
        compare = ["compare", "phantom", "--data", data, "--losses", "ce", "--devices", "cpu", "--out"]
        run(*compare, out / "compare", *sets)
        next((out / "pred").glob("*.nii.gz")).write_bytes(b"")
        label = sorted(data.rglob("*_gt.nii.gz"))[-1]
        label.write_bytes(label.read_bytes()[:-9])
        run("score", *pair, "--out", out / "scores", code=4)
        run("maps", *pair, "--out", out / "maps", code=4)
        report = ["report", out / "scores", "--maps", out / "maps", "--config", "phantom", "--data", data]
        run(*report, "--out", out / "report.html")
        run(*compare, out / "broken", *sets, code=4)
    finally:
        logging.getLogger().removeHandler(handler)
    files = [path for path in out.rglob("*") if path.is_file()]
    assert {path.suffix for path in files} >= {".html", ".gz", ".npz", ".json", ".jsonl", ".csv", ".tex"}
    leaks = {
        name
        for path in files
        for name, raw in unpacked(str(path.relative_to(out)), path.read_bytes())
        if path.name not in PRIVATE and (CANARY in raw or CANARY.decode() in name)
    }
    assert sorted(leaks) == []
    lines = [line for line in stream.getvalue().splitlines() if CANARY.decode() in line]
    assert lines == []
    record_property("measured", f"{len(volumes)} poisoned volumes, {len(files)} files written: none names them")
