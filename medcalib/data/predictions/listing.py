"""Which file, folder or set of files of a prediction folder belongs to which case."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection
from pathlib import Path

from medcalib.data.labels import LabelMap
from medcalib.data.nifti import is_nifti, read_header, stem
from medcalib.data.predictions.arrays import SEGMENTATIONS, label_map_beside
from medcalib.data.predictions.channels import MAX_VALUES, channels_of, prediction_stem, sidecar_of
from medcalib.data.predictions.class_files import class_files
from medcalib.data.predictions.nnunet import DATASET, PLANS, beside
from medcalib.errors import DataError
from medcalib.files import require_folder

ARRAYS = (".npz", ".npy")


def list_predictions(folder: Path, cases: Collection[str] = ()) -> dict[str, Path]:
    """Case id -> prediction: a file, or the folder or common prefix of class files.

    What belongs to a case is known by its id: `<case>.nii.gz`, `.npz`, `.npy`; below the ids in `cases` also
    `<case>_<anything>.nii.gz`, which is a whole prediction when it is 4-D (MONAI adds a postfix) and one class of it
    when it is 3-D, and folders `<case>`. A file that bears the very name of the case is its prediction whatever lies
    beside it (maps, segmentations), unless it is a 3-D label map. Of several, the first stands; `find_predictions`
    tells which cases have several.
    """
    return {case: paths[0] for case, paths in _candidates(folder, cases).items()}


def find_predictions(folder: Path, cases: Collection[str] = ()) -> tuple[dict[str, Path], dict[str, DataError]]:
    """As `list_predictions`, and the refusals (ambiguous_prediction) of cases that have more than one prediction."""
    found, refused = {}, {}
    for case, paths in _candidates(folder, cases).items():
        if len(paths) == 1:
            found[case] = paths[0]
        else:
            shown = ", ".join(path.name for path in paths[:6])
            refused[case] = DataError(
                "ambiguous_prediction", f"{folder} holds several predictions of {case}: {shown}; keep one"
            )
    return found, refused


def input_files(prediction: Path, configured: LabelMap | None = None) -> tuple[Path, ...]:
    """Every file that decides how a prediction is read, for hashing: values, sidecar, label map, nnU-Net's JSON files.

    `configured` is the label map of the config, if there is one. Raises `DataError` where class files are incomplete.
    """
    files: tuple[Path, ...] = (prediction,)
    if not prediction.name.endswith((".nii", ".nii.gz", *ARRAYS)):
        files = class_files(prediction, channels_of(prediction, configured).names)
    seen = label_map_beside(prediction) if prediction.name.endswith(ARRAYS) else None
    others = (sidecar_of(prediction), seen, beside(prediction.parent, DATASET), beside(prediction.parent, PLANS))
    return (*files, *(path for path in others if path is not None and path.is_file()))


def _candidates(folder: Path, cases: Collection[str]) -> dict[str, list[Path]]:
    require_folder(folder, "predictions", "--predictions")
    known = frozenset(cases)
    found: dict[str, Counter[Path]] = {}
    for path in sorted(folder.iterdir()):
        candidate = _candidate(path, known)
        if candidate is not None:
            found.setdefault(candidate[0], Counter())[candidate[1]] += 1
    return {case: _predictions_of(case, files) for case, files in found.items()}


def _predictions_of(case: str, files: Counter[Path]) -> list[Path]:
    """Of the candidates of a case, each with its number of files, those that can be a prediction; never none."""
    whole = [path for path in files if path.is_file() and not (is_nifti(path) and _is_3d(path))]
    exact = [path for path in whole if prediction_stem(path) == case]
    sets = [path for path, count in files.items() if path.is_dir() or (not path.is_file() and count > 1)]
    return exact or [*whole, *sets] or list(files)


def _candidate(path: Path, known: frozenset[str]) -> tuple[str, Path] | None:
    """The case that a path belongs to and the prediction that it is, or is a part of; None for other things."""
    if path.name.startswith("."):
        return None
    if path.is_dir():
        holds = path.name in known and path.name != SEGMENTATIONS and any(map(is_nifti, path.glob("*")))
        return (path.name, path) if holds else None
    if path.name.endswith(ARRAYS):
        return prediction_stem(path), path
    if not is_nifti(path):
        return None
    name = stem(path)
    case = name if name in known else _owner(name, known)
    if case == name:
        return name, path
    return case, path.with_name(case) if _is_3d(path) else path


def _owner(name: str, known: frozenset[str]) -> str:
    """The longest known case id that `name` continues after an underscore; `name` itself without one."""
    cuts = (at for at in range(len(name) - 1, 0, -1) if name[at] == "_")
    return next((name[:at] for at in cuts if name[:at] in known), name)


def _is_3d(path: Path) -> bool:
    try:
        return len(read_header(path, max_voxels=MAX_VALUES).shape) == 3
    except DataError:
        return True  # damaged: it is named when it is read
