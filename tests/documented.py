"""The fenced blocks of README.md and docs/, and how a test runs them."""

from __future__ import annotations

import re
import shlex
from dataclasses import dataclass
from pathlib import Path

from helpers import REPOSITORY
from tiny import SHORTEST
from typer.testing import CliRunner

from medcalib.cli import app

# what is too large for a test is made smaller: an option of a command gets another value
SMALLER = {("phantom", "--cases"): "4", ("compare", "--seeds"): "0", ("calibrate", "--folds"): "2"}
TRAINS = ("train", "compare")
GENERATED = {"docs/reliability.md"}  # and docs/results: written by programs that have tests of their own
PAGES = [
    path
    for path in (REPOSITORY / "README.md", *sorted((REPOSITORY / "docs").glob("*.md")))
    if path.relative_to(REPOSITORY).as_posix() not in GENERATED and not path.stem.endswith(".in")
]
NOT_RUN = re.compile(r"<!-- not run: .*\S -->$")
WHOLE_PAGE = re.compile(r"^<!-- not run, all of this page: .*\S -->$", re.MULTILINE)
FENCE = re.compile(r"^( *)```(\w*)$")


@dataclass(frozen=True)
class Block:
    """A fenced block: where it begins, its language and text, and whether a comment says why it is not run."""

    page: str
    line: int
    language: str
    text: str
    excused: bool

    def __str__(self) -> str:
        return f"{self.page}:{self.line}"


def blocks(path: Path) -> list[Block]:
    """The blocks of a page in their order. Raises ValueError where a fence stays open."""
    text = path.read_text("utf-8")
    page, whole = path.relative_to(REPOSITORY).as_posix(), bool(WHOLE_PAGE.search(text))
    found, before, lines = [], "", iter(enumerate(text.split("\n"), 1))
    for number, line in lines:
        fence = FENCE.match(line)
        if fence is None:
            before = line.strip() or before
            continue
        inside = []
        for _, part in lines:
            if part == f"{fence[1]}```":
                break
            inside.append(part.removeprefix(fence[1]))
        else:
            raise ValueError(f"{page}:{number}: the block is not closed")
        excused = whole or bool(NOT_RUN.match(before))
        found.append(Block(page, number, fence[2], "\n".join(inside) + "\n", excused))
        before = ""
    return found


def to_run(path: Path, language: str) -> list[Block]:
    """The blocks of a language that must run."""
    return [block for block in blocks(path) if block.language == language and not block.excused]


def commands(block: Block) -> list[list[str]]:
    """The words of each line; continued lines are joined, comments left out."""
    lines = block.text.replace("\\\n", " ").split("\n")
    return [words for line in lines if (words := shlex.split(line, comments=True))]


def run_command(words: list[str], where: object) -> str:
    """A documented command in this process and folder, with its trainings made short; returns what it printed."""
    program, command, *rest = words
    assert program == "medcalib", f"{where}: {program} is not run; say why: <!-- not run: REASON -->"
    assert not any("$" in word for word in rest), f"{where}: no shell expands {' '.join(words)}"
    for place, word in enumerate(rest[:-1]):
        if (command, word) in SMALLER:
            rest[place + 1] = SMALLER[command, word]
    if command in TRAINS and not rest[0].startswith("--"):
        rest += [part for option in SHORTEST for part in ("--set", option)]
    found = CliRunner().invoke(app, [command, *rest])
    assert found.exit_code == 0, f"{where}: {' '.join(words)}: {found.exit_code}\n{found.output}\n{found.exception!r}"
    return found.output
