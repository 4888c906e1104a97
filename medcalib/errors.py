"""Errors that a user can act on. Each carries the exit code of the command line."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
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


class DataRefusedError(MedcalibError):
    """A data folder is refused; `problems` holds everything that was found, not only the first."""

    exit_code = Exit.DATA_REFUSED

    def __init__(self, problems: Iterable[Problem]) -> None:
        self.problems = tuple(problems)
        super().__init__("\n".join(str(problem) for problem in self.problems))
