"""nnU-Net raw: `Dataset001_Name/{dataset.json, imagesTr/<case>_0000.nii.gz, labelsTr/<case>.nii.gz}`."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from medcalib.data.case import Case
from medcalib.data.layouts.common import Problems, is_file, posterior, report_unpaired, volumes
from medcalib.data.layouts.msd import inside, task_folder
from medcalib.data.layouts.patients import EVERY, Patient, by_patient, check_patient
from medcalib.data.nifti import stem
from medcalib.errors import DataError, Problem
from medcalib.files import read_json


def nnunet(root: Path, problems: Problems, *, patient: Patient = EVERY) -> list[Case]:
    """Cases of an nnU-Net raw dataset, version 2 (`channel_names`) or 1 (`modality`).

    Channels are the files `<case>_0000`, `<case>_0001`, ... in that order. A `dataset` block in dataset.json
    with explicit paths is honored. Every case must have every channel and a label.
    `patient`: as of the layout `files`.
    """
    check_patient(patient)
    task = task_folder(root, problems)
    if task is None:
        return []
    try:
        description = read_json(task / "dataset.json")
        names = description.get("channel_names") or description["modality"]
        channels = len(names.keys())
    except DataError as error:
        problems.append(Problem("dataset.json", error.reason, str(error)))
        return []
    except (KeyError, TypeError, AttributeError):
        message = 'expected a mapping such as {"0": "CT"} under `channel_names` (version 2) or `modality` (version 1)'
        problems.append(Problem("dataset.json", "bad_dataset_json", message))
        return []
    if isinstance(description.get("dataset"), dict):
        return by_patient(_explicit(task, description["dataset"], problems), patient, problems)
    cases = _paired(task, channels, problems)
    expected = description.get("numTraining")
    if isinstance(expected, int) and expected != len(cases):
        problems.append(
            Problem(
                "dataset.json",
                "count_differs",
                f"numTraining is {expected}, found {len(cases)} cases; is the folder complete?",
                "warning",
            )
        )
    return by_patient(cases, patient, problems)


def _paired(task: Path, channels: int, problems: Problems) -> list[Case]:
    images: dict[str, dict[int, Path]] = {}
    for file in volumes(task / "imagesTr", problems):
        match = re.fullmatch(r"(.+)_(\d{4})", stem(file), re.ASCII)
        if match:
            images.setdefault(match[1], {})[int(match[2])] = file
        else:
            problems.append(
                Problem(
                    file.name,
                    "bad_name",
                    f"expected <case>_<4 digits of the channel>.nii.gz, such as {stem(file)}_0000.nii.gz; rename it",
                )
            )
    labels = {stem(f): f for f in volumes(task / "labelsTr", problems)}
    report_unpaired("label", "an image", labels.keys() - images.keys(), problems)
    report_unpaired("image", "a label", images.keys() - labels.keys(), problems)
    cases = []
    for name, files in sorted(images.items()):
        if sorted(files) != list(range(channels)):
            problems.append(
                Problem(
                    name,
                    "missing_modality",
                    f"expected channels 0..{channels - 1}, found {sorted(files)}; add {name}_<channel>.nii.gz, or "
                    "correct `channel_names` of dataset.json",
                )
            )
            continue
        ordered = tuple(files[k] for k in range(channels))
        cases.append(Case(name, name, ordered, labels.get(name), None, posterior(task / "labelsTr", name)))
    return cases


def _explicit(task: Path, block: dict[str, Any], problems: Problems) -> list[Case]:
    cases = []
    for name, entry in sorted(block.items()):
        try:
            images, label = [inside(task, path) for path in entry["images"]], inside(task, entry["label"])
        except (KeyError, TypeError):
            problems.append(
                Problem(
                    name, "bad_dataset_json", "expected `images: [...]` and `label: ...` in each entry of `dataset`"
                )
            )
            continue
        known = tuple(path for path in images if path is not None and is_file(path))
        if not images or len(known) != len(images) or label is None or not is_file(label):
            problems.append(
                Problem(
                    name,
                    "unpaired",
                    "`dataset` of dataset.json names files that do not exist below the folder; correct it",
                )
            )
            continue
        cases.append(Case(name, name, known, label, None, posterior(task / "labelsTr", name)))
    return cases
