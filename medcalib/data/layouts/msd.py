"""Medical Segmentation Decathlon: `TaskNN_Name/{dataset.json, imagesTr, labelsTr, imagesTs}`."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from typing import Any

from medcalib.data.case import Case
from medcalib.data.layouts.common import Problems, is_file, posterior, report_unpaired, volumes
from medcalib.data.layouts.patients import EVERY, Patient, by_patient, check_patient
from medcalib.data.nifti import is_nifti, stem
from medcalib.errors import DataError, Problem
from medcalib.files import read_json

_UNUSABLE = (
    'expected entries {{"image": "./imagesTr/<case>.nii.gz", "label": "./labelsTr/<case>.nii.gz"}} under `training`, '
    "got {}"
)


def msd(root: Path, problems: Problems, *, patient: Patient = EVERY) -> list[Case]:
    """Cases of an MSD task: the pairs that dataset.json lists under `training`.

    `root` is the task folder, or a folder that holds exactly one. Several modalities are one 4-D file with the
    channel last. Files in imagesTr or labelsTr that dataset.json does not list are reported.
    `patient`: as of the layout `files`.
    """
    check_patient(patient)
    task = task_folder(root, problems)
    if task is None:
        return []
    try:
        entries = read_json(task / "dataset.json")["training"]
        if not isinstance(entries, list):
            raise TypeError
    except DataError as error:
        problems.append(Problem("dataset.json", error.reason, str(error)))
        return []
    except (KeyError, TypeError):
        message = "expected a list under the key `training`; of nnU-Net, which has none, set `data.layout: nnunet`"
        problems.append(Problem("dataset.json", "bad_dataset_json", message))
        return []
    cases = [case for entry in entries if (case := _case(task, entry, problems)) is not None]
    _report_unlisted(task, cases, problems)
    return by_patient(cases, patient, problems)


def task_folder(root: Path, problems: Problems) -> Path | None:
    """`root` itself, or the only folder below it, that holds a dataset.json."""
    found = [path.parent for path in (root / "dataset.json", *sorted(root.glob("*/dataset.json"))) if path.is_file()]
    if not found or (len(found) > 1 and found[0] != root):
        names = ", ".join(path.name for path in found) or "none"
        message = f"expected one dataset.json here or one level down, beside imagesTr and labelsTr, found: {names}"
        problems.append(Problem(str(root), "no_dataset_json", message))
        return None
    return found[0]


def inside(task: Path, relative: Any) -> Path | None:
    """A path of dataset.json below the task folder, or None when it leads elsewhere."""
    path = PurePosixPath(str(relative))
    return None if path.is_absolute() or ".." in path.parts else task / path


def _case(task: Path, entry: Any, problems: Problems) -> Case | None:
    pair = entry if isinstance(entry, Mapping) else {"image": entry}
    image, label = inside(task, pair.get("image", "")), inside(task, pair.get("label", ""))
    if image is None or not is_nifti(image):
        problems.append(Problem("dataset.json", "bad_dataset_json", _UNUSABLE.format(str(entry)[:80])))
        return None
    name = stem(image)
    for kind, path in (("image", image), ("label", label)):
        if path is None or not is_file(path):
            problems.append(
                Problem(name, "unpaired", f"dataset.json lists {kind} {pair.get(kind)!r}, which is absent; add it")
            )
            return None
    return Case(name, name, (image,), label, None, posterior(task / "labelsTr", name))


def _report_unlisted(task: Path, cases: list[Case], problems: Problems) -> None:
    listed = {case.id for case in cases} | {problem.where for problem in problems}
    images = {stem(f) for f in volumes(task / "imagesTr", problems)}
    labels = {stem(f) for f in volumes(task / "labelsTr", problems)}
    report_unpaired("image", "a label", images - labels - listed, problems)
    report_unpaired("label", "an image", labels - images - listed, problems)
    for name in sorted((images & labels) - listed):
        problems.append(
            Problem(name, "unlisted", "in imagesTr and labelsTr but not in dataset.json, so it is left out", "warning")
        )
