"""What nnU-Net writes beside its predictions: dataset.json (classes, regions) and plans.json (the reader)."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from medcalib.data.labels import IGNORE, LabelMap
from medcalib.errors import DataError
from medcalib.files import read_json

DATASET, PLANS = "dataset.json", "plans.json"


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
            raise DataError("bad_dataset_json", f"{path} holds no mapping `labels`; pass a sidecar or correct it")
        return None  # some other file of that name above the folder
    try:
        return _described(path, _codes_of(labels), content.get("regions_class_order"))
    except (TypeError, ValueError) as error:
        raise DataError("bad_dataset_json", f"{path} describes no usable classes: {error}") from error


def _codes_of(labels: dict[str, Any]) -> dict[str, tuple[int, ...]]:
    """Name -> codes, whichever way round the file has them."""
    if all(isinstance(name, str) and name.isdigit() for name in labels):
        return {str(name): (int(code),) for code, name in sorted(labels.items(), key=lambda item: int(item[0]))}
    return {name: tuple(map(int, codes if isinstance(codes, list) else [codes])) for name, codes in labels.items()}


def _described(path: Path, codes_of: dict[str, tuple[int, ...]], order: Any) -> Description:
    ignored = codes_of.pop("ignore", None)
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
    painted = tuple(map(int, order or ()))
    if painted and (len(painted) != len(regions) or not set(painted) <= set(codes)):
        raise ValueError(f"regions_class_order {list(painted)} does not fit the {len(regions)} regions")
    return Description(path, label_map, tuple(regions), tuple(regions.values()), painted)
