"""The reference pages of the site, written from what the software says of itself."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Sequence
from typing import Any

import typer
import typer.main
from modules import MODULES

from medcalib import calibrators, losses
from medcalib.cli import app
from medcalib.config import json_schema
from medcalib.config.listing import list_calibrator, list_losses
from medcalib.losses.citations import entries
from medcalib.metrics.definitions import DEFINITIONS
from medcalib.metrics.protocols import PROTOCOLS, protocol_text

Schema = dict[str, Any]
# the docstring alone, which says what names mean in all of a package
WORDS = "\n    options: {members: false, show_root_heading: false, show_root_toc_entry: false}"


def reference_pages() -> dict[str, str]:
    """Markdown of each generated page by its place in the site."""
    pages = {
        "reference/cli.md": command_line(),
        "reference/config.md": config(),
        "reference/losses.md": of_losses(),
        "reference/calibrators.md": of_calibrators(),
        "reference/scores.md": scores(),
    }
    return pages | {f"reference/python/{name}.md": python(name) for name in MODULES}


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A Markdown table."""
    lines = [[cell_text(cell) for cell in line] for line in [head, ["---"] * len(head), *rows]]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def cell_text(text: str) -> str:
    """A cell on one line whose `|` are escaped, but for those in code spans, which would show the backslash."""
    parts = re.split(r"(`+.*?`+)", text.replace("\n", " "))
    return "".join(part if part.startswith("`") else part.replace("|", r"\|") for part in parts)


def code(text: object) -> str:
    """A code span, which may hold backticks."""
    return f"`{text}`" if "`" not in str(text) else f"`` {text} ``"


def command_line() -> str:
    """Every command with its arguments and options."""
    parts = [
        "# Command line\n\nExit codes: 0 done, 2 usage or config, 3 data refused, 4 some cases refused and the rest "
        "done, 75 stopped (`--resume` goes on), 130 interrupted.\n"
    ]
    group = typer.main.get_command(app)
    for name, command in commands(group, ""):
        shown, context = f"medcalib {name}", typer.Context(command, info_name=f"medcalib {name}")
        usage = " ".join([shown, *command.collect_usage_pieces(context)])
        parts.append(f"## {shown}\n\n```text\n{usage}\n```\n\n{plain(command.help)}\n")
        records = [parameter.get_help_record(context) for parameter in command.params]
        rows = [[code(record[0]), plain(record[1])] for record in records if record]
        parts.append(table(["argument or option", "what it is"], rows) + "\n" if rows else "")
    return "\n".join(parts)


def commands(group: Any, before: str) -> Iterable[tuple[str, Any]]:
    """(name, command) of a group, groups within it too."""
    for name, command in group.commands.items():
        if hasattr(command, "commands"):
            yield from commands(command, f"{before}{name} ")
        else:
            yield f"{before}{name}", command


def plain(text: str | None) -> str:
    """Help as the terminal shows it, with nothing taken for Markdown."""
    return re.sub(r"([*_<])", r"\\\1", text or "")


def config() -> str:
    """Every key of a config, from the JSON schema."""
    schema = json_schema()
    parts = [
        "# Config\n\nEvery key, from the JSON schema that `medcalib schema` writes; how to use it: "
        "[write a config](../configs.md). In a mapping that may take the place of "
        "a name, `name` chooses the other keys.\n",
        "## Top level\n\n" + keys(schema, schema),
    ]
    for name, part in schema["$defs"].items():
        kind, _, variant = name.partition("_")
        if variant and kind in ("loss", "term"):
            continue  # their pages tell more
        title = f"{kind}: {variant}" if variant else re.sub("Config$", "", name).lower()
        parts.append(f"## {title}\n\n{part.get('description', '')}\n\n{keys(part, schema)}")
    parts.append("## loss and terms\n\nOne name, or a mapping: [losses](losses.md) lists the keys of each.\n")
    return "\n\n".join(parts)


def keys(part: Schema, schema: Schema) -> str:
    """The table of a schema's properties."""
    needed = part.get("required", ())
    rows = [
        [code(key), kind_of(value, schema), default_of(key, value, needed), value.get("description", "")]
        for key, value in part.get("properties", {}).items()
    ]
    return table(["key", "value", "default", "what it is"], rows) if rows else "No keys."


def default_of(key: str, value: Schema, needed: Sequence[str]) -> str:
    """The default, short."""
    if "default" not in value:
        return "required" if key in needed else ""
    shown = json.dumps(value["default"])
    return code(shown) if len(shown) < 40 else "its own defaults"


def kind_of(value: Schema, schema: Schema) -> str:
    """What a value may be, in words."""
    if "$ref" in value:
        name = value["$ref"].rsplit("/", 1)[1]
        variant = name.partition("_")[2]
        return f"{{{variant}}}" if variant else f"mapping, see {re.sub('Config$', '', name).lower()}"
    if "const" in value:
        return code(json.dumps(value["const"]))
    if "enum" in value:
        return ", ".join(code(choice) for choice in value["enum"])
    if "anyOf" in value or "oneOf" in value:
        return union([kind_of(one, schema) for one in value.get("anyOf", value.get("oneOf", ()))])
    if value.get("type") == "array":
        return array(value, schema)
    return f"{value.get('type', 'any')}{bounds(value)}".replace("object", "mapping")


def union(kinds: list[str]) -> str:
    """Alternatives; the names of a choice say it all, so that its mappings need no words."""
    plain = [kind for kind in kinds if not kind.startswith("{")]
    return " or ".join([*plain, "a mapping"] if len(plain) < len(kinds) else plain)


def array(value: Schema, schema: Schema) -> str:
    """A list and its entries."""
    if "prefixItems" in value:
        return "[" + ", ".join(kind_of(one, schema) for one in value["prefixItems"]) + "]"
    return f"list of {kind_of(value.get('items', {}), schema)}"


def bounds(value: Schema) -> str:
    """The range of a number, in words."""
    signs = {"minimum": ">=", "exclusiveMinimum": ">", "maximum": "<=", "exclusiveMaximum": "<"}
    found = [f"{sign} {value[key]}" for key, sign in signs.items() if key in value]
    return f" {' and '.join(found)}" if found else ""


def of_losses() -> str:
    """Equation, options and source of each method, and the papers."""
    parts = [
        "# Losses\n\nWhat `medcalib losses` prints. z are logits, p = softmax(z), q one-hot labels, t the true class, "
        "C classes, w the weight, tau the class shares of the window; a mean over valid voxels. What each does: "
        "[train with a loss](../losses.md); the terms: [medcalib.losses](python/losses.md).\n"
    ]
    for loss in list_losses():
        options = losses.parameters(loss["name"])
        rows = [
            [code(key), code(annotation(option.annotation)), code(option.default)] for key, option in options.items()
        ]
        parts.append(
            f"## {loss['name']}\n\n{code(loss['equation'])}\n\nTerms: {', '.join(map(code, loss['terms']))}. "
            f"{loss['reference']}\n\n" + (table(["option", "value", "default"], rows) if rows else "No options.")
        )
    papers = "\n\n".join(entries().values())
    return "\n\n".join([*parts, f"## Papers\n\n```bibtex\n{papers}\n```"])


def annotation(kind: Any) -> str:
    """A type as a user reads it: choices by their names."""
    shown = kind.__name__ if isinstance(kind, type) else str(kind)
    return re.sub(r"\b(?:typing|collections\.abc)\.", "", shown)


def of_calibrators() -> str:
    """Formula, options and source of each method."""
    parts = ["# Calibrators\n\nWhat `medcalib calibrators` prints; how to use them: [repair](../repair.md).\n"]
    for name in calibrators.names():
        found = list_calibrator(name)
        options = [[code(key), code(value)] for key, value in found["options"].items()]
        class_ = found["predictions"].replace("stay", "stays")
        parts.append(
            f"## {name}\n\n{code(found['formula'])}\n\nThe predicted class {class_}. "
            f"Source: {found['source']}.\n\n" + (table(["option", "default"], options) if options else "No options.")
        )
    return "\n\n".join(parts)


def scores() -> str:
    """What the keys of scores.json mean."""
    rows = [[", ".join(code(name) for name in key.split(", ")), plain(text)] for key, text in DEFINITIONS.items()]
    return (
        "# scores.json\n\nWhat `medcalib score` writes; the file holds these sentences itself, as "
        "`settings.definitions`. Each score is given pooled over the voxels of all cases, as mean over cases, and for "
        "each case, by [region](../regions.md).\n\n"
        + table(["key", "definition"], rows)
        + "\n\n## Published protocols\n\n`medcalib score --protocol NAME` also computes what the authors "
        "of a protocol print, with exact sums; `protocols` in `scores.json` holds it.\n\n"
        + table(["protocol", "what it does"], [[code(name), plain(protocol_text(name))] for name in PROTOCOLS])
        + "\n"
    )


def python(name: str) -> str:
    """A page of docstrings, which mkdocstrings fills in."""
    about, shown = MODULES[name]
    whole = f"::: medcalib.{name}"
    objects = [whole + WORDS, *(f"{whole}.{one}" for one in shown.split())] if shown else [whole]
    return "\n\n".join([f"# medcalib.{name}", about, *objects]) + "\n"
