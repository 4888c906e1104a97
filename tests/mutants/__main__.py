"""Do the tests notice a wrong loss or metric? A seeded sample of mutants, each against the tests of its module.

    python tests/mutants --sample 120 --seed 0

Each mutant lives in a fork of a process that has imported the libraries, so that a trial costs its tests and little
more; no file is changed. A mutant is killed by a test or an import that fails, or by the limit on its processor time.
The tests must pass without mutants (`make test`). Ends with 1 where `explained.py` does not explain a survivor.

Not through mutmut or cosmic-ray: they try every mutant, some thousands, and know no sample by package; and the import
hook of an editable install comes before the folder that mutmut writes its mutants to.
"""

from __future__ import annotations

import argparse
import importlib.abc
import importlib.util
import os
import random
import re
import resource
import signal
import sys
import time
from collections.abc import Sequence
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType

os.environ.setdefault("OMP_NUM_THREADS", "1")

import hypothesis
import monai.metrics
import numpy
import pytest
import scipy.ndimage
import scipy.stats
import torch
from explained import EXPLAINED
from matching import PACKAGES, REPOSITORY, dotted, modules, tests_of
from operators import Mutant, count, mutant

import medcalib.data.nifti
import medcalib.ops

# imported once, for all forks
WARM = (hypothesis, medcalib.data.nifti, medcalib.ops, monai.metrics, numpy, scipy.ndimage, scipy.stats, torch)
CPU_LIMIT_S = 240
_LONG = "gradient_and_ignored"  # most of the time of the tests of losses
_ARGUMENTS = [
    "-x",
    "-q",
    "-m",
    "not slow",
    "-p",
    "no:cacheprovider",
    "--hypothesis-seed=0",
    "--tb=line",
    "--assert=plain",
]


class _Wrong(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Imports one module from other source."""

    def __init__(self, name: str, path: Path, source: str) -> None:
        self.name, self.path, self.source = name, path, source

    def find_spec(self, fullname: str, path: object = None, target: ModuleType | None = None) -> ModuleSpec | None:
        if fullname != self.name:
            return None
        return importlib.util.spec_from_file_location(fullname, self.path, loader=self)

    def exec_module(self, module: ModuleType) -> None:
        exec(compile(self.source, str(self.path), "exec"), module.__dict__)  # noqa: S102 - a mutant of our own source


def trial(tests: Sequence[str], log: Path, wrong: _Wrong) -> str:
    """`survived`, `killed` or `time` (out of processor time); what takes long is asked last."""
    outcome = "survived"
    for some in (f"not {_LONG}", _LONG):
        child = os.fork()
        if child == 0:
            _be_tested([*tests, "-k", some], log, wrong)
        _, status = os.waitpid(child, 0)
        if os.WIFSIGNALED(status):
            outcome = "time" if os.WTERMSIG(status) in (signal.SIGXCPU, signal.SIGKILL) else "killed"
        elif os.WEXITSTATUS(status) not in (pytest.ExitCode.OK, pytest.ExitCode.NO_TESTS_COLLECTED):
            outcome = "killed"
        if outcome != "survived":
            break
    return outcome


def _be_tested(arguments: Sequence[str], log: Path, wrong: _Wrong) -> None:
    code = 99
    try:
        resource.setrlimit(resource.RLIMIT_CPU, (CPU_LIMIT_S, CPU_LIMIT_S + 5))
        sys.meta_path.insert(0, wrong)
        with log.open("wb") as stream:
            os.dup2(stream.fileno(), 1)
            os.dup2(stream.fileno(), 2)
        code = int(pytest.main([*_ARGUMENTS, *arguments]))
    finally:
        os._exit(code)


def sample(size: int, seed: int) -> list[tuple[Path, Mutant]]:
    """Mutants with their modules in random order, so that any beginning is a sample, too; half of each package."""
    chosen: list[tuple[Path, int]] = []
    for package in PACKAGES:
        within = [path for path in modules() if package in path.relative_to(REPOSITORY).parts]
        every = [(path, index) for path in within for index in range(count(path.read_text("utf-8")))]
        print(f"{package}: {len(every)} mutants, {size // len(PACKAGES)} of them drawn")
        chosen += random.Random(seed).sample(every, size // len(PACKAGES))
    random.Random(seed).shuffle(chosen)
    return [(path, mutant(path.read_text("utf-8"), index)) for path, index in chosen]


def reason(module: Path, wrong: Mutant) -> str:
    """Why a mutant may survive; empty where nobody says so."""
    line = module.read_text("utf-8").splitlines()[wrong.line - 1].strip()
    return EXPLAINED.get((dotted(module), line, wrong.before, wrong.after), "")


def row(module: Path, wrong: Mutant, outcome: str, log: Path) -> str:
    """A line of the table; the test that a mutant failed, or why it survives, comes last."""
    failed = re.search(r"^(?:FAILED|ERROR) (\S+)", log.read_text("utf-8", "replace"), re.MULTILINE)
    by = failed[1] if failed and outcome == "killed" else reason(module, wrong)
    return "\t".join((f"{dotted(module)}:{wrong.line}", outcome, wrong.before, wrong.after, by))


def main() -> int:
    """Draw, try, tell."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sample", type=int, default=120)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", default="", help="only mutants whose module:line has this regular expression")
    options = parser.parse_args()
    os.chdir(REPOSITORY)
    log = REPOSITORY / "build" / "mutants.log"
    log.parent.mkdir(exist_ok=True)
    made = sample(options.sample, options.seed)
    made = [(path, wrong) for path, wrong in made if re.search(options.only, f"{dotted(path)}:{wrong.line}")]
    path = made[0][0]
    if trial(tests_of(path), log, _Wrong(dotted(path), path, path.read_text("utf-8"))) != "survived":
        sys.exit(f"a module without a mutant fails its tests, see {log}")
    outcomes, unexplained, started = [], 0, time.monotonic()
    for path, wrong in made:
        outcomes.append(trial(tests_of(path), log, _Wrong(dotted(path), path, wrong.source)))
        unexplained += outcomes[-1] == "survived" and not reason(path, wrong)
        print(row(path, wrong, outcomes[-1], log), flush=True)
    tally = {word: outcomes.count(word) for word in ("killed", "time", "survived")}
    print(f"{len(made)} mutants: {tally}, {unexplained} not explained; {time.monotonic() - started:.0f} s")
    return int(unexplained > 0)


if __name__ == "__main__":
    sys.exit(main())
