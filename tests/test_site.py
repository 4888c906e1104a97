"""The site: its navigation, what its hook does to links, and that the reference leaves nothing out."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import typer.main
from helpers import REPOSITORY
from ruamel.yaml import YAML

from medcalib import calibrators, losses
from medcalib.cli import app
from medcalib.config import json_schema
from medcalib.metrics.definitions import DEFINITIONS

pytest.importorskip("mkdocs")
sys.path.insert(0, str(REPOSITORY / "docs" / "site"))
from mkdocs.config import load_config

hook = pytest.importorskip("hook")
docstrings = pytest.importorskip("docstrings")
reference = pytest.importorskip("reference")
DOCS = REPOSITORY / "docs"


@pytest.fixture(scope="module")
def pages() -> dict[str, str]:
    return reference.reference_pages()  # type: ignore[no-any-return]


class Held:
    """What the hook asks MkDocs: whether the site holds a file."""

    def get_file_from_path(self, name: str) -> object | None:
        held = {"repair.md", "results/methods.md", *hook.OF_ROOT.values()}
        return object() if name in held else None


def of_nav(entry: Any) -> list[str]:
    if isinstance(entry, str):
        return [entry]
    parts = entry.values() if isinstance(entry, dict) else entry
    return [page for part in parts for page in of_nav(part)]


def test_the_navigation_names_every_page_once(pages: dict[str, str]) -> None:
    settings = YAML(typ="safe").load((REPOSITORY / "mkdocs.yml").read_text("utf-8"))
    named = of_nav(settings["nav"])
    assert len(named) == len(set(named))
    written = {path.relative_to(DOCS).as_posix() for path in [*DOCS.glob("*.md"), *DOCS.glob("results/*.md")]}
    written -= {"reliability.in.md"}
    assert set(named) == written | pages.keys() | set(hook.OF_ROOT.values()) | {"reliability.md"}


@pytest.mark.parametrize(
    ("target", "source", "page", "expected"),
    [
        ("docs/repair.md", "README.md", "index.md", "repair.md"),
        ("CONTRIBUTING.md", "README.md", "index.md", "contributing.md"),
        ("../README.md", "docs/losses.md", "losses.md", "index.md"),
        ("../repair.md", "docs/results/methods.md", "results/methods.md", "../repair.md"),
        ("../tests/test_cli.py", "docs/reliability.md", "reliability.md", None),  # the site does not hold the tests
        ("CITATION.cff", "README.md", "index.md", None),
        ("nowhere.md", "docs/losses.md", "losses.md", "nowhere.md"),  # left to MkDocs, which refuses it
    ],
)
def test_links_lead_to_the_page_or_become_text(target: str, source: str, page: str, expected: str | None) -> None:
    assert hook.place(target, source, page, Held()) == expected


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("logits (B, C, *S), labels (B, *S)", r"logits (B, C, \*S), labels (B, \*S)"),
        ("z_ik where z < m", r"z\_ik where z \< m"),
        ("the name `z_k * w` stays, z_k not", r"the name `z_k * w` stays, z\_k not"),
        ("    code = a * b_c", "    code = a * b_c"),
    ],
)
def test_formulas_of_docstrings_stay_what_they_are(line: str, expected: str) -> None:
    assert docstrings.escaped(line) == expected


def test_a_bar_ends_no_cell() -> None:
    """A table of Markdown would cut the text there; in a code span the bar stands for itself."""
    assert reference.table(["a"], [["x | y `p|q`"]]) == "| a |\n| --- |\n| x \\| y `p|q` |"


def test_the_reference_has_every_command_and_option(pages: dict[str, str]) -> None:
    group: Any = typer.main.get_command(app)
    for name, command in reference.commands(group, ""):
        assert f"\n## medcalib {name}\n" in pages["reference/cli.md"]
        for parameter in command.params:
            if parameter.param_type_name == "option":
                assert parameter.opts[0] in pages["reference/cli.md"]


def test_the_reference_has_every_key_method_and_score(pages: dict[str, str]) -> None:
    schema = json_schema()
    parts = [schema, *(part for name, part in schema["$defs"].items() if not name.startswith(("loss_", "term_")))]
    assert all(f"| `{key}` |" in pages["reference/config.md"] for part in parts for key in part.get("properties", ()))
    assert all(f"\n## {name}\n" in pages["reference/losses.md"] for name in losses.names())
    assert all(f"\n## {name}\n" in pages["reference/calibrators.md"] for name in calibrators.names())
    assert all(f"`{key.split(', ')[0]}`" in pages["reference/scores.md"] for key in DEFINITIONS)


@pytest.mark.slow
def test_the_site_builds_and_asks_no_network(tmp_path: Path) -> None:
    pytest.importorskip("mkdocstrings")
    command = [sys.executable, "-m", "mkdocs", "build", "--quiet", "--strict", "--site-dir", tmp_path]
    found = subprocess.run(
        command,
        cwd=REPOSITORY,
        env=os.environ | {"NO_MKDOCS_2_WARNING": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert found.returncode == 0, found.stderr
    built = list(tmp_path.rglob("*.html"))
    assert len(built) > 40
    loaded = [word for page in built for word in page.read_text("utf-8").split() if word.startswith(("src=", "href="))]
    outside = [word for word in loaded if "//" in word and word.startswith('src="http')]
    assert not outside


def test_commands_are_wrapped_and_printed_tables_are_not() -> None:
    markdown = pytest.importorskip("markdown")
    config = load_config(str(REPOSITORY / "mkdocs.yml"))
    extensions = [name for name in config.markdown_extensions if name.startswith("pymdownx")]
    text = "\n\n".join(f"```{name}\nx\n```" for name in ("bash", "sh", "text"))
    page = markdown.markdown(text, extensions=extensions, extension_configs=config.mdx_configs)
    shown = re.findall(r'<div class="language-(\w+) highlight">', page)
    assert shown == ["bash", "sh", "text"]
    style = (DOCS / "stylesheets" / "site.css").read_text("utf-8")
    (rule,) = [line for line in style.splitlines() if "pre-wrap" in line]
    assert [name for name in shown if f".language-{name}" in rule] == ["bash", "sh"]
