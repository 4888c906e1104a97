"""Every problem of a data folder at once."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from medcalib.data.case import Case
from medcalib.data.geometry import SHEARED, WARNINGS
from medcalib.data.labels import LabelMap
from medcalib.data.layouts.patients import shared_patients
from medcalib.data.load import LoadedCase, Nonfinite, load_case
from medcalib.errors import DataError, DataRefusedError, Problem
from medcalib.files import check_case_id
from medcalib.options import nearest

Layout = Callable[..., list[Case]]
SHEARED_FIX = "a sheared volume cannot be resampled; add it to `data.exclude`, or set `preprocess.spacing_mm: null`"


def find_cases(
    layout: Layout,
    root: Path,
    options: dict[str, Any],
    *,
    exclude: Sequence[str] = (),
    skip_unpaired: bool = False,
) -> tuple[list[Case], list[Problem]]:
    """Cases of a folder and everything that does not fit; unpaired files are warnings where they may be skipped."""
    problems: list[Problem] = []
    if not root.is_dir():
        came = (
            "the data folder is a file; pass the folder" if root.exists() else "the data folder does not exist; pass it"
        )
        return [], [Problem(str(root), "missing_folder", f"{came} with --data")]
    cases = layout(root, problems, **options)
    dropped = set(exclude)
    seen = len(cases)
    unknown = _unknown_ids(exclude, {p.where for p in problems}.union(*((case.id, case.patient_id) for case in cases)))
    cases = [case for case in cases if not {case.id, case.patient_id} & dropped]
    problems = [p for p in problems if p.where not in dropped] + (unknown if seen else [])
    if skip_unpaired:
        unpaired = {p.where for p in problems if p.reason == "unpaired"}
        cases = [case for case in cases if case.id not in unpaired]
        problems = [_as_warning(p) if p.reason == "unpaired" else p for p in problems]
    problems += [*_id_problems(cases), *shared_patients(cases)]
    if not cases and not any(p.level == "error" for p in problems):
        problems.append(Problem(str(root), "no_case", _no_case(layout, seen)))
    return cases, problems


def _unknown_ids(exclude: Sequence[str], known: set[str]) -> list[Problem]:
    """A problem for each id to leave out that nothing in the folder has: a mistyped one would be trained on."""
    problems = []
    for name in (name for name in exclude if name not in known):
        like = nearest(name, sorted(known))
        hint = f"its ids are such as {min(known, default='')}" if like is None else f"did you mean {like!r}?"
        problems.append(Problem(f"data.exclude {name!r}", "unknown_id", f"no case or patient of the folder; {hint}"))
    return problems


def _no_case(layout: Layout, seen: int) -> str:
    if seen:
        return f"no case is left: `data.exclude` leaves out all {seen}"
    about = (layout.__doc__ or "").split("\n", 1)[0].rstrip(".")
    return (
        f"no case found; pass the folder that holds {about[:1].lower()}{about[1:]} (`data.layout`: {layout.__name__})"
    )


def require(problems: Iterable[Problem]) -> None:
    """Raise with all errors among `problems`, if there is one."""
    errors = [problem for problem in problems if problem.level == "error"]
    if errors:
        raise DataRefusedError(errors)


def check_case(
    case: Case, label_map: LabelMap, *, nonfinite: Nonfinite, channels: int | None, resampled: bool
) -> tuple[LoadedCase | None, list[Problem]]:
    """Read a case completely and report what is wrong with it."""
    try:
        loaded = load_case(case, label_map, nonfinite=nonfinite, with_posterior=True)
    except DataError as error:
        return None, [Problem(case.id, error.reason, str(error))]
    problems = [Problem(case.id, code, WARNINGS[code], "warning") for code in loaded.warnings]
    if resampled and SHEARED in loaded.warnings:
        problems.append(Problem(case.id, "sheared_resampling", SHEARED_FIX))
    if channels is not None and loaded.image.shape[0] != channels:
        message = f"{loaded.image.shape[0]} channels, the first case has {channels}; all cases need the same channels"
        problems.append(Problem(case.id, "channel_count", message))
    if case.label is None:
        problems.append(Problem(case.id, "no_label", "has no label; it can be predicted, not trained on", "warning"))
    elif loaded.label is not None and not (loaded.label % 255).any():
        problems.append(Problem(case.id, "empty_label", "the label holds background only", "warning"))
    if not np.ptp(loaded.image):
        problems.append(
            Problem(
                case.id,
                "constant_image",
                "every voxel of the image is the same; export it again, or add it to `data.exclude`",
            )
        )
    return loaded, problems


def _as_warning(problem: Problem) -> Problem:
    return Problem(problem.where, problem.reason, problem.message.split(";")[0] + "; left out", "warning")


def _id_problems(cases: Sequence[Case]) -> list[Problem]:
    """Ids become file names: they must be safe, and different even where letter case is ignored."""
    problems, seen = [], dict[str, str]()
    for case in cases:
        try:
            check_case_id(case.id)
        except DataError as error:
            problems.append(Problem(repr(case.id)[:140], error.reason, str(error)))
        folded = case.id.casefold()
        if folded in seen:
            problems.append(
                Problem(
                    case.id,
                    "duplicate_case_id",
                    f"the case id is also that of {seen[folded]}, letter case apart; rename one",
                )
            )
        seen[folded] = case.id
    return problems
