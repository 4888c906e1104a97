"""Docstrings are plain text with formulas: what Markdown would take for emphasis or HTML is escaped."""

from __future__ import annotations

import re
from typing import Any

from griffe import Extension, Object

CODE = re.compile(r"(`[^`]*`)")
MARKS = re.compile(r"([*_<\[\]|~])")


class PlainText(Extension):
    """Escapes each docstring, outside code spans and indented examples."""

    def on_object(self, *, obj: Object, **kwargs: Any) -> None:
        """Griffe calls this for every object that it has loaded."""
        del kwargs
        if obj.docstring is not None:
            obj.docstring.value = "\n".join(map(escaped, obj.docstring.value.split("\n")))


def escaped(line: str) -> str:
    """One line, with marks escaped where it is prose."""
    if line.startswith("    "):
        return line
    return "".join(part if part.startswith("`") else MARKS.sub(r"\\\1", part) for part in CODE.split(line))
