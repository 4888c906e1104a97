"""What the YAML library found wrong, in words for a person who edits a config."""

from __future__ import annotations

import re
from typing import Any

from ruamel.yaml.error import YAMLError

from medcalib.plain import one_line

# what the library says begins so -> what to do; "{}" is the part of its text that says which character it found
_WORDS = (
    (r"found character '\\t' that cannot start any token", "a tab where none may be; indent with spaces"),
    (r"found character (.+) that cannot start any token", "text cannot begin with {}; put it in quotes"),
    (r"mapping values are not allowed", "a second `: ` in one line; put text that holds `: ` in quotes, or correct the "
     "indentation"),
    (r"could not find expected ':'", "this line is no `key: value`; is the colon, or the space behind it, missing?"),
    (r"found unexpected end of stream", "the quote that opens here is never closed"),
    (r"found unknown escape character|expected escape sequence", "in double quotes \\ begins an escape; use single "
     "quotes, or / in paths"),
    (r"expected alphabetic or numeric character", "text cannot begin with & or *; put it in quotes"),
    (r"expected (?:<block end>|'?<document start>'?)", "this line is indented otherwise than the lines around it; keys "
     "of one level begin in one column"),
    (r"(?:expected|did not find) .*node content", "a value is missing"),
)  # fmt: skip
_AT_ITS_BEGINNING = ("could not find expected ':'", "found unexpected end of stream")


def explained(error: YAMLError, name: str) -> str:
    """`file:line:column: not valid YAML: what is wrong and how to correct it`."""
    problem = str(getattr(error, "problem", None) or str(error).splitlines()[0])
    end, begin = getattr(error, "problem_mark", None), getattr(error, "context_mark", None)
    mark = begin if begin and problem.startswith(_AT_ITS_BEGINNING) else end or begin
    return f"{_place(mark, name)}: not valid YAML: {one_line(_reason(problem, begin))}"


def _place(mark: Any, name: str) -> str:
    return f"{name}:{mark.line + 1}:{mark.column + 1}" if mark else f"{name}:1:1"


def _reason(problem: str, begin: Any) -> str:
    braced = re.match(r"expected ',' or '([\]}])', but got '(.*)'", problem)
    if braced:
        bracket = "[" if braced[1] == "]" else "{"
        opened = f" ({bracket} was opened in line {begin.line + 1})" if begin else ""
        came = {"<stream end>": "the end", "{": "{; put text that holds braces in quotes"}.get(braced[2], braced[2])
        return f"expected ',' or '{braced[1]}'{opened}, got {came}"
    for pattern, words in _WORDS:
        found = re.match(pattern, problem)
        if found:
            return words.format(*found.groups())
    return problem
