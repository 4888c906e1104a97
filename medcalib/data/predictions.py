"""Prediction folders: `<case>.nii.gz` (4-D probabilities, class last) with a `<case>.json` sidecar."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medcalib.data.case import Case
from medcalib.data.geometry import Affine, on_same_grid
from medcalib.data.labels import IGNORE, LabelMap
from medcalib.data.load import read_any, read_label, read_posterior
from medcalib.data.nifti import is_nifti, read_volume, stem, write_volume
from medcalib.errors import DataError
from medcalib.files import check_case_id, read_json, write_json

INDEX = "predictions.json"  # which cases were to be predicted, by what
SEGMENTATIONS = "segmentations"


@dataclass(frozen=True)
class Pair:
    """A prediction and the reference that belongs to it."""

    case: Case
    prediction: Path


@dataclass(frozen=True)
class Compared:
    """A pair in memory, on the label's own grid: probs (C, i, j, k) float32, label (i, j, k) uint8 classes."""

    case: Case
    probs: NDArray[np.float32]
    label: NDArray[np.uint8]
    affine: Affine
    posterior: NDArray[np.float32] | None = None


def write_prediction(
    folder: Path,
    case: Case,
    probs: NDArray[np.float32],
    affine: Affine,
    label_map: LabelMap,
    sidecar: Mapping[str, Any],
) -> None:
    """Write probabilities (C, i, j, k), their sidecar, and the segmentation in the dataset's own codes."""
    write_volume(folder / SEGMENTATIONS / f"{case.id}.nii.gz", label_map.decode(probs.argmax(0)), affine)
    write_volume(folder / f"{case.id}.nii.gz", np.moveaxis(probs, 0, -1), affine)
    meta = {"class_names": label_map.class_names, "codes": label_map.codes, "ignore_code": label_map.ignore_code}
    write_json(folder / f"{case.id}.json", {"case": case.id, "activation": "softmax", **meta, **sidecar})


def remove_prediction(folder: Path, case: Case) -> None:
    """Remove what `write_prediction` wrote of a case, if there is any."""
    for path in (f"{SEGMENTATIONS}/{case.id}.nii.gz", f"{case.id}.nii.gz", f"{case.id}.json"):
        (folder / path).unlink(missing_ok=True)


def list_predictions(folder: Path) -> dict[str, Path]:
    """Case id -> file of every probability volume in a folder."""
    if not folder.is_dir():
        raise DataError("missing_folder", f"{folder} is no folder of predictions")
    return {stem(path): path for path in sorted(folder.iterdir()) if path.is_file() and is_nifti(path)}


def expected_cases(folder: Path, references: Mapping[str, Case], *, flat: bool) -> tuple[set[str], str]:
    """The cases that ought to have a prediction, and how that is known.

    `index`: `predict` wrote down what it set out to do. `labels`: every label of a flat folder is expected, so that
    a tool that failed on hard cases does not get a clean table. `predictions`: a whole dataset lies there and
    nothing says which part was to be predicted, so only what is there can be expected.
    """
    if (folder / INDEX).is_file():
        try:
            return {str(case) for case in read_json(folder / INDEX)["cases"]}, "index"
        except (KeyError, TypeError) as error:
            raise DataError("bad_index", f"{folder / INDEX} holds no list `cases` ({error})") from error
    return (set(references), "labels") if flat else (set(list_predictions(folder)), "predictions")


def labels_for(prediction: Path, configured: LabelMap | None) -> LabelMap:
    """The classes of a prediction: the config's, which its sidecar may not contradict, else the sidecar's."""
    if configured is None:
        return label_map_of(prediction)
    if _sidecar(prediction).is_file():
        found = label_map_of(prediction)
        if (found.class_names, found.codes) != (configured.class_names, configured.codes):
            raise DataError(
                "class_order",
                f"{_sidecar(prediction)} says that the channels are {', '.join(found.class_names)}; the config says "
                f"{', '.join(configured.class_names)}; use the config that the predictions were made with",
            )
    return configured


def without_folders(message: str, *folders: Path) -> str:
    """A message without the paths of these folders: results travel, and folder names may name patients."""
    for folder in folders:
        for name in (str(folder.resolve()), str(folder)):
            message = message.replace(f"{name}/", "").replace(name, folder.name)
    return message


def _sidecar(prediction: Path) -> Path:
    return prediction.with_name(f"{stem(prediction)}.json")


def label_map_of(prediction: Path) -> LabelMap:
    """Class names and codes from a prediction's sidecar."""
    path = _sidecar(prediction)
    if not path.is_file():
        raise DataError("missing_sidecar", f"{path}, which names classes and codes, does not exist; pass --config")
    try:
        meta = read_json(path)
        codes = tuple(tuple(int(code) for code in group) for group in meta["codes"])
        names, ignored = tuple(map(str, meta["class_names"])), meta.get("ignore_code")
        flat = [code for group in codes for code in group]
        if not 2 <= len(names) == len(codes) <= IGNORE or not all(codes) or len(set(flat)) < len(flat):
            raise ValueError(f"{len(names)} names, {len(codes)} groups of codes, each code in one group")
        if 0 not in codes[0]:
            raise ValueError("the first class must be the background, with code 0")
        return LabelMap(names, codes, None if ignored is None else int(ignored))
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise DataError("bad_sidecar", f"{path} names no class_names and codes ({error}); pass --config") from error


def flat_references(labels: Path) -> dict[str, Case]:
    """References of a flat folder `<case>.nii.gz` (posteriors of phantoms beside them)."""
    if not labels.is_dir():
        raise DataError("missing_folder", f"{labels} is no folder of labels")
    files = {stem(path): path for path in sorted(labels.iterdir()) if path.is_file() and is_nifti(path)}
    if not files:
        raise DataError("no_labels", f"{labels} holds no <case>.nii.gz; for a dataset's own folder pass --config")
    return {
        name: Case(name, name, (), path, None, files.get(f"{name}_posterior"))
        for name, path in files.items()
        if not name.endswith("_posterior")
    }


def same_classes(pairs: Iterable[Pair]) -> tuple[list[Pair], list[dict[str, str]]]:
    """Pairs whose sidecars name the classes of the first readable one, and the refused others: scores of different
    classes cannot stand in one table."""
    kept: list[Pair] = []
    refused: list[dict[str, str]] = []
    first: tuple[str, LabelMap] | None = None
    for pair in pairs:
        try:
            found = label_map_of(pair.prediction)
            first = first or (pair.case.id, found)
            if found != first[1]:
                raise DataError(
                    "class_order",
                    f"the sidecar of {pair.case.id} names {', '.join(found.class_names)}, that of {first[0]} names "
                    f"{', '.join(first[1].class_names)} (or other codes); make them agree, or pass --config",
                )
            kept.append(pair)
        except DataError as error:
            refused.append({"case": pair.case.id, "reason": error.reason, "message": str(error)})
    return kept, refused


def pair_up(
    folder: Path, references: Mapping[str, Case], expected: Iterable[str]
) -> tuple[list[Pair], list[dict[str, str]]]:
    """Pairs, and for every expected or present case that has no partner why it is refused."""
    predictions = list_predictions(folder)
    pairs, refused = [], []
    for name in sorted({*expected, *predictions}):
        problem = _unpaired(name, predictions, references)
        if problem is None:
            pairs.append(Pair(references[name], predictions[name]))
        else:
            refused.append({"case": name, "reason": problem.reason, "message": str(problem)})
    return pairs, refused


def _unpaired(name: str, predictions: Mapping[str, Path], references: Mapping[str, Case]) -> DataError | None:
    try:
        check_case_id(name)
    except DataError as error:
        return error
    if name not in predictions:
        return DataError("missing_prediction", f"{name}: no prediction {name}.nii.gz")
    if name not in references or references[name].label is None:
        return DataError("missing_reference", f"{name}: no reference label for this prediction")
    return None


def read_pair(pair: Pair, label_map: LabelMap) -> Compared:
    """Read prediction and reference onto the label's grid. Raises `DataError` naming file and reason."""
    if pair.case.label is None:
        raise DataError("missing_reference", f"{pair.case.id}: no reference label")
    reference = read_any(pair.case.label, dtype=None)
    shape = reference.array.shape
    label = read_label(reference, pair.case.label, label_map, reference.affine, shape[:3])
    probs = read_probs(pair.prediction, label_map.class_names, reference.affine, shape[:3])
    known = None
    if pair.case.posterior is not None:
        known = read_posterior(pair.case.posterior, label_map.num_classes, reference.affine, shape[:3])
    return Compared(pair.case, probs, label, reference.affine, known)


def read_probs(path: Path, class_names: Sequence[str], affine: Affine, shape: tuple[int, ...]) -> NDArray[np.float32]:
    """Probabilities (C, i, j, k) on the grid (`affine`, `shape`); flipped or permuted where affines prove it."""
    volume = read_volume(path)
    if volume.array.ndim != 4 or volume.array.shape[3] != len(class_names):
        hint = ""
        if volume.array.ndim == 3:
            hint = "; this looks like a label map, not like probabilities"
        elif volume.array.shape[0] == len(class_names):
            hint = "; the class axis is first, move it last"
        raise DataError(
            "channel_count",
            f"{path} has shape {volume.array.shape}; expected 4-D with the {len(class_names)} classes "
            f"({', '.join(class_names)}) last{hint}",
        )
    moved = on_same_grid(volume.array, volume.affine, affine, shape, str(path))
    return np.ascontiguousarray(np.moveaxis(moved, -1, 0))
