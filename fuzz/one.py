"""One target under atheris: python -m fuzz.one TARGET [options and folders of libFuzzer]."""

from __future__ import annotations

import importlib
import resource
import sys
import tempfile
from importlib.machinery import PathFinder
from pathlib import Path

import atheris

from fuzz.targets import seeds

MEMORY = 1 << 29  # bytes that reading may take on top of what the imports have
INSTRUMENTED = ["medcalib", "ruamel", "zipfile"]


def main() -> None:
    """Run until libFuzzer's limits, or a finding."""
    name, *options = sys.argv[1:]
    sys.meta_path.sort(
        key=lambda finder: finder is not PathFinder
    )  # atheris passes over what an editable install loads
    with atheris.instrument_imports(include=INSTRUMENTED, enable_loader_override=False):
        target = importlib.import_module(f"fuzz.{name}")
    folder = Path(tempfile.mkdtemp(prefix=f"fuzz-{name}-"))
    for seed in seeds(name):
        target.check(seed.read_bytes(), folder)  # imports what it needs, before memory is bounded
    dictionary = folder / "words"
    dictionary.write_text("".join(f"{_quoted(word)}\n" for word in target.words()))
    _limit_memory()
    given = [f"-dict={dictionary}"] if target.words() else []
    atheris.Setup(
        [sys.argv[0], f"-max_len={target.MAX_BYTES}", *given, *options], lambda data: target.check(data, folder)
    )
    atheris.Fuzz()


def _quoted(word: str) -> str:
    """An entry of a libFuzzer dictionary."""
    return '"' + word.replace('"', '\\"').replace("\n", "\\x0a") + '"'


def _limit_memory() -> None:
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    limit = pages * resource.getpagesize() + MEMORY
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))


if __name__ == "__main__":
    main()
