"""Errors that a user can act on. Each carries the exit code of the command line."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, replace
from enum import IntEnum
from typing import Literal

__all__ = [
    "CheckpointError",
    "ConfigError",
    "DataError",
    "DataRefusedError",
    "Exit",
    "MedcalibError",
    "MissingExtraError",
    "NoMemoryError",
    "PreemptedError",
    "Problem",
    "RankError",
    "RefusedError",
    "TrainingError",
]


def in_words(error: BaseException) -> str:
    """What went wrong, in one line for a message: of a `KeyError` what is missing, of weights that do not fit the first
    parameters, of others their first line."""
    if isinstance(error, KeyError):
        return f"it lacks {error.args[0]!r}"
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    first, *details = [line.strip()[:160] for line in str(error).splitlines() if line.strip()] or [""]
    text = "; ".join(details[:2]) if first.startswith("Error(s) in loading state_dict") and details else first
    return f"its values are not as expected: {text}" if isinstance(error, (TypeError, AttributeError)) else text


class Exit(IntEnum):
    """Exit codes of the command line, stable for scripts.

    OK 0; USAGE 2, of a command or config; DATA_REFUSED 3; SOME_REFUSED 4, the other cases are done; PREEMPTED 75,
    `--resume` goes on; INTERRUPTED 130.
    """

    OK = 0
    USAGE = 2
    DATA_REFUSED = 3
    SOME_REFUSED = 4
    PREEMPTED = 75
    INTERRUPTED = 130


class MedcalibError(Exception):
    """Base of all errors that medcalib raises on purpose; its text says what to do.

    `exit_code` is that of the command line.
    """

    exit_code: Exit = Exit.USAGE


class ConfigError(MedcalibError):
    """A config or an option is wrong. `str()` lists every mistake, one a line."""


class MissingExtraError(MedcalibError):
    """An optional dependency, `package`, is not installed; the `extra` of medcalib brings it."""

    def __init__(self, extra: str, package: str) -> None:
        super().__init__(f'{package} is not installed; install it with: pip install "medcalib[{extra}]"')


class TrainingError(MedcalibError):
    """Training cannot go on (for example, the loss is not finite again and again)."""


class RankError(TrainingError):
    """Another rank of a training has ended or does not answer."""


class PreemptedError(MedcalibError):
    """A signal ended a training that can be continued: nothing is lost."""

    exit_code = Exit.PREEMPTED


class NoMemoryError(MedcalibError):
    """A device has no room even for the smallest piece of work."""


class CheckpointError(MedcalibError):
    """A checkpoint is absent, damaged or of another run."""


class DataError(MedcalibError):
    """One file or case is refused. `reason` is a stable code, the message says what to do."""

    exit_code = Exit.DATA_REFUSED

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason


class RefusedError(MedcalibError):
    """A case was refused where none may be."""

    exit_code = Exit.SOME_REFUSED


@dataclass(frozen=True)
class Problem:
    """One finding about a data folder: `where` it is, and a `message` that says what to do.

    `reason` is a code that stays the same between releases. `level` "error" refuses the data, "warning" stops nothing.
    """

    where: str
    reason: str
    message: str
    level: Literal["error", "warning"] = "error"

    def __str__(self) -> str:
        return f"{self.level}: {self.where}: {self.message} [{self.reason}]"


def grouped(problems: Iterable[Problem]) -> list[Problem]:
    """For a reader: errors first, and one in place of many that differ by the name of the case and by numbers alone.

    Codes of labels are no such numbers. The one has the details of the first and says how many there are. What is no
    case (`shard 1/3`, a folder) stays.
    """
    alike: dict[tuple[str, str, str], list[Problem]] = {}
    for problem in sorted(problems, key=lambda problem: problem.level):
        alike.setdefault((problem.level, problem.reason, _without_details(problem)), []).append(problem)
    return [_together(group) for group in alike.values()]


def _without_details(problem: Problem) -> str:
    if re.search(r"[\s/]", problem.where):
        return f"{problem.where}: {problem.message}"
    numbers = r"(?<![\s\d])\d[\d,.]*" if problem.reason == "unknown_label" else r"\d[\d,.]*"  # codes follow a blank
    own = rf"(?<![A-Za-z0-9]){re.escape(problem.where)}(?![A-Za-z0-9])"
    return re.sub(numbers, "#", re.sub(own, "#", problem.message))


def _together(group: list[Problem]) -> Problem:
    first, same = group[0], len({problem.message for problem in group}) == 1
    places = list(dict.fromkeys(problem.where for problem in group))
    if len(places) == 1:
        return first if same else replace(first, message=f"{first.message} (and {len(group) - 1} more like it)")
    more = ", ..." if len(places) > 2 else ""
    where = f"{len(places)} cases ({', '.join(places[:2])}{more})"
    return replace(first, where=where, message=first.message if same else f"the first: {first.message}")


class DataRefusedError(MedcalibError):
    """A data folder is refused; `problems` holds everything that was found, the text what is alike in one line."""

    exit_code = Exit.DATA_REFUSED

    def __init__(self, problems: Iterable[Problem]) -> None:
        self.problems = tuple(problems)
        super().__init__("\n".join(map(str, grouped(self.problems))))
