"""Pages from the package's own templates: jinja2 that escapes all text, and a policy that allows one script."""

from __future__ import annotations

import base64
import hashlib
import json
from importlib.resources import files
from typing import Any

from medcalib.errors import MissingExtraError


def template_text(name: str) -> str:
    """A file of the folder `templates`."""
    return files("medcalib.report").joinpath("templates", name).read_text(encoding="utf-8")


def script_hash(script: str) -> str:
    """What a page's policy allows to run: this script and no other."""
    return "sha256-" + base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()


def require_drawing() -> None:
    """Raise `MissingExtraError` at the start of long work whose page could not be drawn at its end."""
    try:
        import jinja2
        import matplotlib
    except ImportError as error:
        raise MissingExtraError("report", "jinja2" if "jinja2" in str(error) else "matplotlib") from error
    del jinja2, matplotlib


def environment() -> Any:
    """A jinja2 environment over the templates. Raises `MissingExtraError` without jinja2."""
    try:
        import jinja2
    except ImportError as error:
        raise MissingExtraError("report", "jinja2") from error
    found = jinja2.Environment(
        loader=jinja2.FunctionLoader(template_text),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    found.filters["number"] = _number
    found.filters["signed"] = _signed
    found.filters["plain"] = lambda v: v if isinstance(v, str) else json.dumps(v, ensure_ascii=False)
    found.globals["trusted"] = _trusted
    return found


def _number(value: float | None, digits: int = 4) -> str:
    return "n/a" if value is None else f"{value:.{digits}f}"


def _signed(value: float | None, digits: int = 3) -> str:
    return "n/a" if value is None else f"{value:+.{digits}f}".replace("-", "\N{MINUS SIGN}")


def _trusted(text: str) -> Any:
    """The package's own style and script, which are no text; nothing from a file or name comes here."""
    from markupsafe import Markup  # jinja2 depends on it

    return Markup(text)  # noqa: S704
