"""Configs: any file, and any text behind `--set`, gives a config that reads back equal, or `ConfigError`."""

from __future__ import annotations

from pathlib import Path

import medcalib.config.checks  # noqa: F401 - else it comes with the first config, and counts to it
from fuzz.harness import attempt, equal
from medcalib.config import dump, json_schema, load
from medcalib.config.bundled import bundled

MAX_BYTES = 4096
OVERRIDE = b"--set "


def check(data: bytes, folder: Path) -> None:
    """`data` as a config file or, where it begins with `--set `, as overrides of a good one."""
    path = folder / "c.yaml"
    if data.startswith(OVERRIDE):
        overrides = data.decode("utf-8", "replace").split(OVERRIDE.decode())[1:]
        config = attempt(lambda: load(bundled()["phantom"], overrides=overrides))
    else:
        path.write_bytes(data)
        config = attempt(lambda: load(path))
    if config is not None:
        path.write_text(dump(config), encoding="utf-8")
        equal(attempt(lambda: load(path)), config, "written and read back")


def words() -> list[str]:
    """Keys and names of the schema, for the dictionary of the fuzzer."""
    found: set[str] = {
        "!!python/object/apply:os.system",
        "_target_",
        "$import",
        "&a ",
        "*a",
        ".nan",
        "1e999",
        "---\n",
        "--set ",
    }

    def walk(node: object) -> None:
        if isinstance(node, dict):
            found.update(node.get("properties", ()))
            found.update(word for word in (node.get("const"), *node.get("enum", ())) if isinstance(word, str))
            for child in node.values():
                walk(child)
        elif isinstance(node, list):
            for child in node:
                walk(child)

    walk(json_schema())
    return sorted(found)
