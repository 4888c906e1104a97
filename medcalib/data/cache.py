"""Preprocessed items on disk, shared by all runs that preprocess the same bytes in the same way.

MONAI's PersistentDataset does nearly this, but stores pickles, which run code when they are read, under keys of paths,
which do not notice that a file was edited. Here an entry is a safetensors file whose name is the SHA-256 of everything
that its content depends on: the bytes of the case's files, the settings, and the versions of medcalib and MONAI. So
nothing is ever stale, and several processes may fill one folder at once: they write the same, each file in one move.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import zlib
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

import medcalib
from medcalib import distributed
from medcalib.data.case import Case
from medcalib.data.transforms import Item
from medcalib.errors import ConfigError
from medcalib.files import atomic, remove_abandoned, sha256

log = logging.getLogger(__name__)
FORMAT = 1  # of an entry; a new one leaves the old entries unused
THREADS = 4  # that fill the cache: reading releases Python's lock, and each holds a volume
_DETACHED = (".mhd", ".nrrd")  # their voxels may lie in another file, whose bytes no key would know


class DiskCached(torch.utils.data.Dataset[Item]):
    """Items of `cases`, made by `compute` where the folder has none yet.

    An entry is checked by its CRC-32 when a process first reads it; a damaged one is made anew, with one warning. On a
    full disk, and in a folder that may only be read, items without an entry are computed each time, also with one
    warning. Raises `ConfigError` for a folder that cannot be made or read and whatever `compute` refuses, at once.
    """

    def __init__(
        self, cases: Sequence[Case], compute: Callable[[Case], Item], folder: Path, settings: Mapping[str, Any]
    ) -> None:
        self.cases, self.compute, self.folder = list(cases), compute, folder
        self._settings = json.dumps(
            [FORMAT, medcalib.__version__, version("monai"), settings], sort_keys=True, default=list
        )
        self._checked: set[str] = set()
        self._warned: set[str] = set()
        self._is_full = False
        _require_readable(folder)
        if os.access(folder, os.W_OK):
            remove_abandoned(folder)
        else:
            self._is_full = True
            self._warn("full", f"{folder} may only be read: items that it does not hold are computed each time")
        # ranks begin at different cases, so that they share the work
        first = len(self.cases) * distributed.rank() // distributed.ranks()
        order = [*range(first, len(self.cases)), *range(first)]
        with ThreadPoolExecutor(THREADS) as pool:
            found = list(pool.map(self._ensured, order))
        self._keys = dict(zip(order, found, strict=True))

    def __len__(self) -> int:
        return len(self.cases)

    def __getitem__(self, index: int) -> Item:
        key = self._keys[index]
        item = None if key is None else self._read(key)
        return self._made(self.cases[index], key) if item is None else item

    def _ensured(self, index: int) -> str | None:
        """The key of a case, whose entry is there now, but for a full disk; None where it cannot be cached."""
        case = self.cases[index]
        key = self._key(case)
        if key is None or not self._path(key).is_file():
            self._made(case, key)
        return key

    def _made(self, case: Case, key: str | None) -> Item:
        item = self.compute(case)
        if key is not None and not self._is_full:
            try:
                _write(self._path(key), item)
                self._checked.add(key)
            except (OSError, SafetensorError) as error:
                self._is_full = True
                self._warn("full", f"{self.folder} takes no more entries, items are computed each time: {error}")
        return item

    def _read(self, key: str) -> Item | None:
        """None where there is no whole entry."""
        path = self._path(key)
        try:
            item = _load(path, check=key not in self._checked)
        except FileNotFoundError:
            return None
        except (OSError, SafetensorError, ValueError, RuntimeError) as error:
            if not path.is_file():  # removed between the two times that safetensors opens it: torch's RuntimeError
                return None
            self._checked.discard(key)
            self._warn("damaged", f"the cached item {path} is damaged and is made anew: {error}")
            return None
        self._checked.add(key)
        return item

    def _key(self, case: Case) -> str | None:
        """None for files that cannot be read, which `compute` refuses, or whose voxels may lie elsewhere."""
        files = [*case.images, *([] if case.label is None else [case.label])]
        if any(path.suffix.lower() in _DETACHED for path in files):
            return None
        try:
            content = [("".join(path.suffixes[-2:]).lower(), sha256(path)) for path in files]
        except OSError:
            return None
        described = json.dumps([self._settings, len(case.images), content])
        return hashlib.sha256(described.encode()).hexdigest()

    def _path(self, key: str) -> Path:
        return self.folder / f"{key}.safetensors"

    def _warn(self, what: str, text: str) -> None:
        if what not in self._warned:
            self._warned.add(what)
            log.warning("%s", text)


def _require_readable(folder: Path) -> None:
    fix = "name a folder of your own with --set train.cache_dir=DIR, or set train.cache to memory or none"
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(f"train.cache_dir: {folder} cannot be made: {error.strerror}; {fix}") from error
    if not os.access(folder, os.R_OK | os.X_OK):
        raise ConfigError(f"train.cache_dir: {folder} may not be read; {fix}")


def _write(path: Path, item: Item) -> None:
    tensors = {name: torch.as_tensor(value).contiguous() for name, value in item.items()}
    with atomic(path) as temporary:
        save_file(tensors, temporary, {"crc32": _checksum(tensors)})


def _load(path: Path, *, check: bool) -> Item:
    """Raises ValueError or `SafetensorError` where the file is not what was written."""
    with safe_open(path, framework="pt") as stream:
        expected = (stream.metadata() or {}).get("crc32")
        tensors = {name: stream.get_tensor(name) for name in stream.keys()}  # noqa: SIM118 - it is no mapping
    if check and _checksum(tensors) != expected:
        raise ValueError(f"its checksum is not {expected}")
    if "affine" not in tensors:
        raise ValueError(f"it holds {', '.join(tensors) or 'nothing'}, and no affine")
    return tensors | {"affine": tensors["affine"].numpy()}


def _checksum(tensors: Mapping[str, Tensor]) -> str:
    """CRC-32 of names, types, shapes and values."""
    crc = 0
    for name, tensor in sorted(tensors.items()):
        crc = zlib.crc32(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode(), crc)
        crc = zlib.crc32(tensor.numpy().data, crc)
    return f"{crc:08x}"
