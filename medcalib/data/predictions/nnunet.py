"""What nnU-Net writes beside its predictions: dataset.json (classes, regions) and plans.json (the reader)."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from medcalib.data.labels import IGNORE, LabelMap
from medcalib.errors import DataError
from medcalib.files import read_json

DATASET, PLANS = "dataset.json", "plans.json"
CODES = (-32768, 65535)  # of label files, as in configs


@dataclass(frozen=True)
class Description:
    """Classes of an nnU-Net dataset. `regions` holds, for region models, the class indices of each channel, and
    `painted` the class index that the label map gets where that channel exceeds 0.5, later ones on top."""

    path: Path
    label_map: LabelMap
    names: tuple[str, ...]
    regions: tuple[tuple[int, ...], ...] | None = None
    painted: tuple[int, ...] = ()


def beside(folder: Path, name: str) -> Path | None:
    """`name` in the folder of predictions, in its parent, or above `fold_X/validation`; None without one."""
    folders = [folder, folder.parent]
    if folder.name == "validation" and folder.parent.name.startswith("fold_"):
        folders.append(folder.parent.parent)
    return next((place / name for place in folders if (place / name).is_file()), None)


def reader_of(folder: Path) -> str | None:
    """Which image reader plans.json names (such as SimpleITKIO), if any."""
    path = beside(folder, PLANS)
    try:
        plans = None if path is None else read_json(path)
    except DataError:
        return None  # it may be some other file of that name, and is needed only where a label map proves nothing
    reader = plans.get("image_reader_writer") if isinstance(plans, dict) else None
    return reader if isinstance(reader, str) else None


def description_of(folder: Path) -> Description | None:
    """Classes by dataset.json of nnU-Net 2 (name -> code or codes) or 1 and MSD (code -> name); None without one.

    Channels of a region model (a label with several codes) follow the order of `labels` without the background.
    Raises `DataError` (bad_dataset_json) when the file cannot mean any classes.
    """
    path = beside(folder, DATASET)
    if path is None:
        return None
    content = read_json(path)
    labels = content.get("labels") if isinstance(content, dict) else None
    if not isinstance(labels, dict):
        if path.parent == folder:
            raise DataError(
                "bad_dataset_json", f"{path} holds no mapping `labels` of names to codes; correct it, or pass --config"
            )
        return None  # some other file of that name above the folder
    try:
        return _described(path, _codes_of(labels), content.get("regions_class_order"))
    except TypeError as error:
        raise DataError("bad_dataset_json", f"{path} describes no usable classes; correct `labels`") from error
    except ValueError as error:
        raise DataError("bad_dataset_json", f"{path} describes no usable classes: {error}; correct it") from error


def code_of(value: Any) -> int:
    """A code of a label file. ValueError for what no label file holds."""
    try:
        number = float("nan" if isinstance(value, bool) else value)
    except (OverflowError, TypeError, ValueError):
        number = float("nan")
    if not CODES[0] <= number <= CODES[1] or number != int(number):
        raise ValueError(f"{ascii(value)[:60]} is no whole number from {CODES[0]} to {CODES[1]}")
    return int(number)


def own_names(names: Iterable[str]) -> tuple[str, ...]:
    """The names. ValueError unless each is printable text that no other has."""
    found = tuple(names)
    if len(set(found)) < len(found) or not all(name.strip() and name.isprintable() for name in found):
        raise ValueError(f"each needs a printable name of its own, got {ascii(found)[:80]}")
    return found


def _codes_of(labels: dict[str, Any]) -> dict[str, tuple[int, ...]]:
    """Name -> codes, whichever way round the file has them."""
    if all(isinstance(name, str) and name.isdigit() for name in labels):
        return {str(name): (code_of(code),) for code, name in sorted(labels.items(), key=lambda item: int(item[0]))}
    return {name: tuple(map(code_of, codes if isinstance(codes, list) else [codes])) for name, codes in labels.items()}


def _described(path: Path, codes_of: dict[str, tuple[int, ...]], order: Any) -> Description:
    own_names(codes_of)
    ignored = codes_of.pop("ignore", None)
    if not all(codes_of.values()) or ignored == ():
        raise ValueError(f"every label needs a code, got {codes_of}")
    ignore_code = None if ignored is None else ignored[0]
    codes = sorted({code for codes in codes_of.values() for code in codes})
    if codes[:1] != [0] or not 2 <= len(codes) <= IGNORE or codes != list(range(len(codes))):
        raise ValueError(f"codes must run from 0 (background) without a gap, got {codes}")
    if all(len(group) == 1 for group in codes_of.values()):
        names = tuple(sorted(codes_of, key=lambda name: codes_of[name]))
        if len(names) != len(codes):
            raise ValueError(f"several labels share a code: {codes_of}")
        return Description(path, LabelMap(names, tuple((c,) for c in codes), ignore_code), names)
    single = {group[0]: name for name, group in codes_of.items() if len(group) == 1}
    label_map = LabelMap(
        tuple(single.get(code, f"label {code}") for code in codes), tuple((c,) for c in codes), ignore_code
    )
    regions = {name: tuple(sorted(set(group))) for name, group in codes_of.items() if set(group) != {0}}
    if not isinstance(order or [], list):
        raise ValueError(f"expected `regions_class_order` such as [1, 2, 3], got {ascii(order)[:60]}")
    painted = tuple(map(code_of, order or ()))
    if painted and (len(painted) != len(regions) or not set(painted) <= set(codes)):
        raise ValueError(f"regions_class_order {list(painted)} does not fit the {len(regions)} regions")
    return Description(path, label_map, tuple(regions), tuple(regions.values()), painted)
