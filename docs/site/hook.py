"""What the site adds to the pages in docs/: the files of the repository's root, the reference, links that hold.

README.md and its like are pages of the site as they are. A link to a file that the site does not hold becomes its text.
"""

from __future__ import annotations

import posixpath
import re
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page
from reference import reference_pages

ROOT = Path(__file__).resolve().parent.parent.parent
OF_ROOT = {
    "README.md": "index.md",
    "CONTRIBUTING.md": "contributing.md",
    "SECURITY.md": "security.md",
    "CHANGELOG.md": "changelog.md",
}
LINK = re.compile(r"(?<!!)\[((?:[^\[\]]|\[[^\]]*\])*)\]\((?!\w+:|#)([^)\s#]+)(#[^)\s]*)?\)")
IMAGE = re.compile(r"!\[([^\]]*)\]\((?!\w+:)([^)\s]+)\)")


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages that are not in docs/."""
    for source, page in OF_ROOT.items():
        files.append(File.generated(config, page, content=(ROOT / source).read_text("utf-8")))
    for page, text in reference_pages().items():
        files.append(File.generated(config, page, content=text))
    if files.get_file_from_path("reliability.md") is None:
        files.append(File.generated(config, "reliability.md", content=unmeasured()))
    return files


def unmeasured() -> str:
    """The page of faults where `make reliability` has not written one."""
    words = (ROOT / "docs/reliability.in.md").read_text("utf-8")
    return re.sub(r"<!--.*?-->", "", words) + "\nIt has not been written for this copy of the site.\n"


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Point links to where their targets are in the site."""
    del config
    here = page.file.src_uri
    source = next((root for root, name in OF_ROOT.items() if name == here), f"docs/{here}")

    def image(found: re.Match[str]) -> str:
        return f"![{found[1]}]({place(found[2], source, here, files) or found[2]})"

    def link(found: re.Match[str]) -> str:
        target = place(found[2], source, here, files)
        return found[1] if target is None else f"[{found[1]}]({target}{found[3] or ''})"

    return IMAGE.sub(image, LINK.sub(link, markdown))


def place(target: str, source: str, here: str, files: Files) -> str | None:
    """The link from page `here`, written in file `source`, in the site; None for a file that the site leaves out."""
    path = posixpath.normpath(posixpath.join(posixpath.dirname(source), target))
    name = OF_ROOT.get(path) or (path.removeprefix("docs/") if path.startswith("docs/") else None)
    if name is None or ((ROOT / path).exists() and files.get_file_from_path(name) is None):
        return None if (ROOT / path).exists() else target
    return posixpath.relpath(name, posixpath.dirname(here) or ".")
