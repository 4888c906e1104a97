"""One scores folder as arrays: the numbers of each case and the binned counts that pooled numbers are made of."""

from __future__ import annotations

import io
import json
import zipfile
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from medcalib.errors import DataError, in_words
from medcalib.files import check_case_id, read_json
from medcalib.metrics.calibration import CalibrationCounts
from medcalib.metrics.case import MAX_BYTES
from medcalib.ops.scoring import NUM_CELLS
from medcalib.report.comparison.columns import COLUMNS, REGIONS

Array = NDArray[np.float64]
Numbers = dict[str, Any]
_TABLES = ("n", "correct", "conf_hi", "conf_lo")
_LOCAL = 30  # bytes of a local file header before its name
_MAGIC = b"\x93NUMPY\x01\x00"


@dataclass(frozen=True)
class Scored:
    """The cases of one model on the test split, in order of their id.

    `values` (N, columns) with NaN for absent. `gaps` and `voxels` by region: (N, K, B) of the top label, in `all` of
    the classes too. `settings` identify how it was scored: numbers of other settings stand in no common table.
    """

    cases: tuple[str, ...]
    patients: tuple[str, ...]
    settings: str
    values: Array
    gaps: dict[str, Array]
    voxels: dict[str, Array]
    facts: Numbers


def read_scored(folder: Path) -> Scored:
    """Read `scores.json` and the counts beside it. `DataError` names what is missing or damaged."""
    numbers = read_json(folder / "scores.json")
    try:
        settings = numbers["settings"]
        classes = list(settings["classes"])
        names = tuple(sorted(numbers["cases"]))
        patients = tuple(str(numbers["cases"][name]["patient_id"]) for name in names)
        rows = [[column.of_case(numbers["cases"][name], classes) for column in COLUMNS] for name in names]
        regions = [name for name in REGIONS if name in settings["regions"]]
        facts = {key: numbers.get(key) for key in ("n_expected", "n_scored", "refused", "software", "dataset")}
        key = {k: v for k, v in settings.items() if k != "definitions"}
        bins, edges = int(settings["bins"]), settings["edges"]
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise DataError(
            "broken_scores", f"{folder / 'scores.json'} is incomplete: {in_words(error)}; score again"
        ) from error
    if not names:
        raise DataError("no_case", f"{folder} holds no scored case")
    gaps, voxels = _binned(folder, names, regions, len(classes), bins, edges)
    values = np.array(rows, np.float64)
    facts |= {"bins": bins, "edges": edges, "classes": classes, "regions": dict(settings["regions"])}
    return Scored(names, patients, json.dumps(key, sort_keys=True), values, gaps, voxels, facts)


def _binned(
    folder: Path, cases: tuple[str, ...], regions: list[str], classes: int, bins: int, edges: Any
) -> tuple[dict[str, Array], dict[str, Array]]:
    """Summed confidence minus hits, and voxels, of each case by region."""
    channels = {region: 1 + classes if region == "all" else 1 for region in regions}
    stacked = [_case_tables(folder / f"{check_case_id(case)}.npz", channels) for case in cases]
    if not regions:
        return {}, {}
    tables = torch.from_numpy(np.stack(stacked, 1))  # (tables, N, rows, cells)
    flat = tables.reshape(len(_TABLES), -1, NUM_CELLS)
    curve = CalibrationCounts(*flat).binned(bins, edges)
    shape = (len(cases), sum(channels.values()), bins)
    gaps, voxels = ((part.numpy().reshape(shape)) for part in (curve.confidence - curve.accuracy, curve.n))
    starts = dict(zip(channels, np.cumsum([0, *channels.values()]).tolist(), strict=False))
    parts = {region: slice(starts[region], starts[region] + count) for region, count in channels.items()}
    return {r: gaps[:, part] for r, part in parts.items()}, {r: voxels[:, part] for r, part in parts.items()}


def _case_tables(path: Path, channels: dict[str, int]) -> NDArray[np.int64]:
    """The calibration counts that are needed (tables, rows, cells); a full load would take three times as long."""
    try:
        packed = path.read_bytes()
        with zipfile.ZipFile(io.BytesIO(packed)) as directory:
            members = {member.filename: member for member in directory.infolist()}
        rows = [
            np.stack([_table(packed, members[f"{region}/{table}.npy"])[:count] for table in _TABLES])
            for region, count in channels.items()
        ]
    except (OSError, ValueError, KeyError, zipfile.BadZipFile, zlib.error, MemoryError) as error:
        raise DataError(
            "broken_scores", f"{path} is no readable case score ({in_words(error)}); score again"
        ) from error
    for region, (found, count) in zip(channels, zip(rows, channels.values(), strict=True), strict=True):
        if found.shape[1] != count:
            raise DataError("broken_scores", f"{path} has {found.shape[1]} rows in {region}, expected {count} or more")
    return np.concatenate(rows, 1) if rows else np.zeros((len(_TABLES), 0, NUM_CELLS), np.int64)


def _table(packed: bytes, member: zipfile.ZipInfo) -> NDArray[np.int64]:
    """One int64 table (rows, cells) of an `.npz`; the header is checked, nothing in it is evaluated."""
    data = _unpacked(packed, member)
    start = 10 + int.from_bytes(data[8:10], "little")
    header = data[10:start]
    if not data.startswith(_MAGIC) or b"'descr': '<i8'" not in header or b"'fortran_order': False" not in header:
        raise ValueError(f"{member.filename} is no table of 64-bit integers")
    table = np.frombuffer(data, "<i8", offset=start)
    if table.size % NUM_CELLS:
        raise ValueError(f"{member.filename} has {table.size} entries, expected a multiple of {NUM_CELLS}")
    return table.reshape(-1, NUM_CELLS)


def _unpacked(packed: bytes, member: zipfile.ZipInfo) -> bytes:
    """The bytes of a member, checked; `ZipFile.read` takes most of a comparison's time on so many small members."""
    if member.file_size > MAX_BYTES:
        raise ValueError(f"{member.filename} unpacks to more than {MAX_BYTES:,} bytes")
    at = member.header_offset + _LOCAL  # name and extra field follow, of lengths in the last four bytes before
    name, extra = (int.from_bytes(packed[at - k : at - k + 2], "little") for k in (4, 2))
    at += name + extra
    data = packed[at : at + member.compress_size]
    if member.compress_type == zipfile.ZIP_DEFLATED:
        data = zlib.decompressobj(-zlib.MAX_WBITS).decompress(data, member.file_size)
    if len(data) != member.file_size or zlib.crc32(data) != member.CRC:
        raise ValueError(f"{member.filename} is damaged")
    return data
