"""Predictions and the references that belong to them, and which were to be expected."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from pathlib import Path

from medcalib.data.case import Case
from medcalib.data.nifti import is_nifti, stem
from medcalib.data.predictions.channels import Channels, channels_of
from medcalib.data.predictions.compared import Pair
from medcalib.data.predictions.listing import find_predictions, list_predictions
from medcalib.errors import DataError
from medcalib.files import check_case_id, read_json, require_folder, twins

INDEX = "predictions.json"  # which cases were to be predicted, by what


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
            raise DataError("bad_index", f"{folder / INDEX} holds no list `cases`; delete or correct it") from error
    return (set(references), "labels") if flat else (set(list_predictions(folder, references)), "predictions")


def flat_references(labels: Path) -> dict[str, Case]:
    """References of a flat folder `<case>.nii.gz` (posteriors of phantoms beside them)."""
    require_folder(labels, "labels", "--labels")
    files = {stem(path): path for path in sorted(labels.iterdir()) if path.is_file() and is_nifti(path)}
    if not files:
        endings = sorted({path.suffix for path in labels.iterdir() if path.is_file() and path.suffix})
        seen = f" (but {', '.join(endings[:4])}: convert them to NIfTI)" if endings else ""
        raise DataError("no_labels", f"{labels} holds no <case>.nii.gz{seen}; for a dataset's own folder pass --config")
    return {
        name: Case(name, name, (), path, None, files.get(f"{name}_posterior"))
        for name, path in files.items()
        if not name.endswith("_posterior")
    }


def same_classes(pairs: Iterable[Pair]) -> tuple[list[Pair], list[dict[str, str]]]:
    """Pairs whose descriptions name the classes of the first readable one, and the refused others: scores of
    different classes cannot stand in one table."""
    kept: list[Pair] = []
    refused: list[dict[str, str]] = []
    first: tuple[str, Channels] | None = None
    for pair in pairs:
        try:
            found = channels_of(pair.prediction, None)
            first = first or (pair.case.id, found)
            if (found.label_map, found.names, found.groups) != (first[1].label_map, first[1].names, first[1].groups):
                raise DataError(
                    "class_order",
                    f"the sidecar of {pair.case.id} names {', '.join(found.names)}, that of {first[0]} names "
                    f"{', '.join(first[1].names)} (or other codes); make them agree, or pass --config",
                )
            kept.append(pair)
        except DataError as error:
            refused.append(_refusal(pair.case.id, error))
    return kept, refused


def pair_up(
    folder: Path, references: Mapping[str, Case], expected: Iterable[str]
) -> tuple[list[Pair], list[dict[str, str]]]:
    """Pairs, and for every expected or present case that has no partner why it is refused."""
    predictions, ambiguous = find_predictions(folder, references)
    pairs, refused = [], []
    names = sorted(set(expected) | set(predictions) | set(ambiguous))
    alike = twins(names)
    for name in names:
        try:
            if name in alike:
                raise DataError("duplicate_case_id", f"the case id differs from {alike[name]} in letter case alone")
            if name in ambiguous:
                raise ambiguous[name]
            pairs.append(_paired(name, predictions, references, folder))
        except DataError as error:
            refused.append(_refusal(name, error))
    return pairs, refused


def without_folders(message: str, *folders: Path) -> str:
    """A message without the paths of these folders: results travel, and folder names may name patients."""
    for folder in folders:
        for name in (os.path.realpath(folder), str(folder)):
            message = message.replace(f"{name}/", "").replace(name, folder.name)
    return message


def _paired(name: str, predictions: Mapping[str, Path], references: Mapping[str, Case], folder: Path) -> Pair:
    check_case_id(name)
    if name not in predictions:
        what = f"no prediction {name}.nii.gz, .npz, .npy or set of class files"
        raise DataError("missing_prediction", what + (_like(name, predictions) or _nothing(folder, predictions)))
    if name not in references:
        hint = _like(name, references) or "; a prediction and its label bear one name, <case>"
        raise DataError("missing_reference", f"no reference label for this prediction{hint}")
    if references[name].label is None:
        raise DataError("missing_reference", "no reference label for this prediction: the dataset has an image alone")
    return Pair(references[name], predictions[name])


def _like(name: str, others: Iterable[str]) -> str:
    """A hint at a name that differs by an ending alone, such as `<case>_gt`."""
    near = [
        o
        for o in others
        if o != name and (o.startswith((f"{name}_", f"{name}.")) or name.startswith((f"{o}_", f"{o}.")))
    ]
    return f"; there is {min(near)}: name both alike, <case>" if near else ""


def _nothing(folder: Path, predictions: Mapping[str, Path]) -> str:
    """A hint where not one prediction is there."""
    if predictions:
        return ""
    run = (folder / "config.yaml").is_file()
    return f"; {folder} is a run: `predict` it first" if run else f"; {folder} holds no prediction at all"


def _refusal(name: str, error: DataError) -> dict[str, str]:
    return {"case": name, "reason": error.reason, "message": str(error)}
