"""Any folder: images and labels found by patterns that hold `{case}`."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path, PurePosixPath
from typing import Annotated

from medcalib.data.case import Case
from medcalib.data.itk import FORMATS
from medcalib.data.layouts.common import POSTERIOR, Problems, check_once, posterior, report_unpaired
from medcalib.data.layouts.patients import EVERY, Patient, by_patient, check_patient
from medcalib.data.nifti import is_nifti, stem
from medcalib.errors import Problem


def files(
    root: Path,
    problems: Problems,
    *,
    images: Annotated[Sequence[str], "pattern of the files of each channel"] = ("images/{case}.nii.gz",),
    label: Annotated[str, "pattern of the labels"] = "labels/{case}.nii.gz",
    patient: Patient = EVERY,
) -> list[Case]:
    """Cases from patterns below `root`, one pattern a channel, such as `images/{case}_0000.nii.gz`.

    `label` is the pattern of the labels. `patient` is a regular expression with one group, matched against the whole
    case id, that yields the patient: `(sub-[0-9]+)_.*` keeps all sessions of a subject on one side of the split. Raises
    ValueError for a pattern without `{case}` and for an expression without a group.
    """
    _check_patterns(images, label)
    check_patient(patient)
    labels = _matches(root, label)
    found = [_apart(_matches(root, pattern), pattern, labels, label) for pattern in images]
    for by_case, pattern in zip(found, images, strict=True):
        labels = _apart(labels, label, by_case, pattern)
    every = set().union(*found)
    report_unpaired("label", "an image", labels.keys() - every, problems)
    report_unpaired("image", "a label", every - labels.keys(), problems)
    if not every | labels.keys():
        problems.append(
            Problem(
                str(root), "no_files", f"no file matches {', '.join(images)}; correct `data.layout.images` or --data"
            )
        )
    cases = []
    for name in sorted(every):
        missing = [pattern for pattern, by_case in zip(images, found, strict=True) if name not in by_case]
        if missing:
            problems.append(Problem(name, "missing_modality", f"no file matches {', '.join(missing)}; add it"))
        else:
            reference = labels.get(name)
            known = posterior(reference.parent, name) if reference else None
            cases.append(Case(name, name, tuple(by_case[name] for by_case in found), reference, None, known))
    return by_patient(cases, patient, problems)


def _check_patterns(images: Sequence[str], label: str) -> None:
    check_once("images and label", [*images, label])
    for option, pattern in [*(("images", pattern) for pattern in images), ("label", label)]:
        path = PurePosixPath(pattern)
        if path.name.count("{case}") != 1 or path.is_absolute() or ".." in path.parts:
            raise ValueError(f"{option} needs {{case}} once, in the file name, below the folder; got {pattern!r}")


def _apart(found: dict[str, Path], pattern: str, others: dict[str, Path], other: str) -> dict[str, Path]:
    """`found` without the files of a more specific pattern: a_seg.nii.gz fits {case}.nii.gz, and is no image."""
    taken = set(others.values()) if len(other) > len(pattern) else set()
    return {name: path for name, path in found.items() if path not in taken}


def _is_volume(path: Path) -> bool:
    return is_nifti(path) or (path.suffix.lower() in FORMATS and not path.name.startswith("."))


def _matches(root: Path, pattern: str) -> dict[str, Path]:
    path = PurePosixPath(pattern)
    before, _, after = path.name.partition("{case}")
    expression = re.compile(re.escape(before) + r"(.+)" + re.escape(after))
    entries = sorted((root / path.parent).iterdir()) if (root / path.parent).is_dir() else []
    found = {}
    for entry in entries:
        match = expression.fullmatch(entry.name)
        if match and _is_volume(entry) and not stem(entry).endswith(POSTERIOR):
            found[match[1]] = entry
    return found
