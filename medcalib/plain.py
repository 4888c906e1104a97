"""Text from files and folders made harmless for terminals, logs and tables."""

from __future__ import annotations

import logging
from copy import copy


def one_line(text: str) -> str:
    r"""Line breaks and other characters that do not print (escape sequences of terminals) as `\n`, `\x1b`, ..."""
    return _escaped(text, "")


def printable(text: str) -> str:
    """As `one_line`, but for line breaks and tabs, which stay."""
    return _escaped(text, "\n\t")


def _escaped(text: str, kept: str) -> str:
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() or c in kept else c.encode("unicode_escape").decode() for c in text)


class PlainFormatter(logging.Formatter):
    """Log messages whose arguments, which may come from files, stay in their line."""

    def format(self, record: logging.LogRecord) -> str:
        """The message alone."""
        plain = copy(record)
        if isinstance(record.args, tuple):
            plain.args = tuple(a if isinstance(a, int | float) else one_line(str(a)) for a in record.args)
        return super().format(plain)
