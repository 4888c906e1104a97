"""Splits by patient: two volumes of one patient never lie on both sides."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Annotated, Literal

import numpy as np

from medcalib.data.case import Case
from medcalib.errors import DataRefusedError, Problem

Split = dict[str, list[Case]]
NAMES = ("train", "val", "test")


def kfold(
    cases: Sequence[Case],
    *,
    folds: Annotated[int, "parts of the patients that are not tested"] = 5,
    fold: Annotated[int, "the part that validates, from 0; the others train"] = 0,
    seed: Annotated[int, "of the order of patients"] = 0,
    test: Annotated[
        float | Literal["layout"], "share of patients held out; layout: the cases that the folders mark as test"
    ] = 0.2,
) -> Split:
    """Seeded k-fold over patients; fold `fold` validates, the other folds train.

    `test` is the share of patients held out, the same ones for every fold, or "layout": the cases that the
    dataset's own folders mark as test. Raises `DataRefusedError` where two patients or more, but fewer than `folds`,
    are left beside the test set: some fold would validate nobody.
    """
    _require(folds >= 2, f"folds must be at least 2, got {folds}")
    _require(0 <= fold < folds, f"fold must lie in 0..{folds - 1}, got {fold}")
    _require(isinstance(test, str) or 0 <= test < 1, f"test must be a share in [0, 1) or 'layout', got {test}")
    shuffled = _shuffled(cases, seed)
    if isinstance(test, str):
        held_out = {case.patient_id for case in cases if case.split == "test"}
    else:
        held_out = set(shuffled[: round(test * len(shuffled))])
    rest = [patient for patient in shuffled if patient not in held_out]
    if 1 < len(rest) < folds:
        raise DataRefusedError([Problem("split", "too_many_folds", _too_many(folds, len(rest), len(held_out)))])
    val = set(rest[fold::folds])
    return _grouped(cases, lambda case: "test" if case.patient_id in held_out else _side(case, val))


def _too_many(folds: int, left: int, held_out: int) -> str:
    beside = f", {held_out} being held out for test" if held_out else ""
    return f"{folds} folds of {left} patients{beside}; set `split.folds` to {left} or less, or add patients"


def listed(
    cases: Sequence[Case],
    *,
    train: Annotated[Sequence[str], "ids of patients or cases"],
    val: Annotated[Sequence[str], "the same"],
    test: Annotated[Sequence[str], "the same"] = (),
) -> Split:
    """Explicit lists of patient or case ids. Cases in no list are left out."""
    wanted = {name: set(ids) for name, ids in zip(NAMES, (train, val, test), strict=True)}
    known = {case.id for case in cases} | {case.patient_id for case in cases}
    unknown = sorted(set().union(*wanted.values()) - known)
    if unknown:
        like = f"; its ids are such as {min(known)}" if known else ""
        raise DataRefusedError(
            [Problem("split", "unknown_id", f"{', '.join(unknown[:10])}: no such patient or case in the data{like}")]
        )
    return {name: [c for c in cases if {c.id, c.patient_id} & wanted[name]] for name in NAMES}


def checked(split: Split) -> Split:
    """Return `split`, or raise with every leak and every empty side."""
    problems = [*_leaks(split)]
    for name in ("train", "val"):
        if not split[name]:
            problems.append(
                Problem("split", "empty_split", f"no case is left for {name}; change `split` or add patients")
            )
    if problems:
        raise DataRefusedError(problems)
    return split


def _leaks(split: Split) -> list[Problem]:
    sides: dict[str, set[str]] = {}
    for name, cases in split.items():
        for case in cases:
            sides.setdefault(case.patient_id, set()).add(name)
    return [
        Problem("split", "patient_leak", f"patient {patient} is in {' and '.join(sorted(names))}; keep one")
        for patient, names in sorted(sides.items())
        if len(names) > 1
    ]


def _shuffled(cases: Sequence[Case], seed: int) -> list[str]:
    patients = sorted({case.patient_id for case in cases})
    order = np.random.default_rng(seed).permutation(len(patients))
    return [patients[i] for i in order]


def _side(case: Case, val: set[str]) -> str:
    return "val" if case.patient_id in val else "train"


def _grouped(cases: Sequence[Case], side: Callable[[Case], str]) -> Split:
    split: Split = {name: [] for name in NAMES}
    for case in cases:
        split[side(case)].append(case)
    return split


def _require(condition: bool, message: str) -> None:
    if not condition:
        raise ValueError(message)


SPLITS: dict[str, Callable[..., Split]] = {"kfold": kfold, "listed": listed}
