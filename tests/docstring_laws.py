"""What docstrings of the reference owe their readers, found in the sources: one finding a line.

Everything that is shown has a docstring. What is promised (`__all__`; of losses, metrics, calibrators, ops and
integrations all that is shown) names its parameters, the shapes of tensors and arrays, and the errors that it raises.

    python tests/docstring_laws.py

Parameters may be explained in the docstring of the function, its class, its module or its package (`medcalib/losses/
__init__.py`), which says once what a name means everywhere in it.
"""

from __future__ import annotations

import ast
import re
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(REPOSITORY / "docs" / "site"))

from modules import MODULES  # noqa: E402 - the site's own list

Function = ast.FunctionDef | ast.AsyncFunctionDef
Definition = Function | ast.ClassDef
WHOLE = ("losses", "metrics", "calibrators", "ops", "integrations")  # small parts that people copy and read
SELF = {"self", "cls", "ax", "args", "kwargs"}
SHAPE = re.compile(r"\((?:[^()]*,[^()]*|\*?[A-Z]\w*|\.\.\.)?\)|any shape")
RAISED = re.compile(r"\b(\w*Error|ValueError)\b")


@dataclass(frozen=True)
class Shown:
    """A function or class of the reference, with the words around it."""

    name: str
    node: Definition
    tree: ast.Module
    around: str = ""
    promised: bool = True
    owner: ast.ClassDef | None = None
    inherited: frozenset[str] = field(default_factory=frozenset)

    @property
    def words(self) -> str:
        """Its docstring and those of its class, module and package."""
        return "\n".join([document(self.node), document(self.owner), self.around])


def document(node: ast.AST | None) -> str:
    """A docstring, or nothing."""
    documented = isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef))
    return (ast.get_docstring(node) or "") if documented else ""  # type: ignore[arg-type]


@cache
def source(module: str) -> ast.Module | None:
    """The syntax tree of a module."""
    path = REPOSITORY / Path(*module.split("."))
    for file in (path.with_suffix(".py"), path / "__init__.py"):
        if file.is_file():
            return ast.parse(file.read_text("utf-8"))
    return None


def everything() -> Iterator[Shown]:
    """What the reference shows, methods too."""
    for page, (_, names) in MODULES.items():
        package = f"medcalib.{page}"
        for name in names.split() or [""]:
            dotted = f"medcalib.{page}.{name}".rstrip(".")
            tree, only = source(dotted), None
            if tree is None:
                dotted, _, only = dotted.rpartition(".")
                tree = source(dotted)
            assert tree is not None, f"docs/site/modules.py names {dotted}, which is no module"
            listed = None if page in WHOLE else listed_for(dotted, package)
            yield from of_module(dotted, tree, packages_of(dotted, package), only, listed)


def packages_of(module: str, package: str) -> str:
    """The docstrings of a module and of the packages that it lies in, up to `package`."""
    words = ""
    while module.startswith(package):
        words += document(source(module)) + "\n"
        module = module.rpartition(".")[0]
    return words


def listed_for(module: str, package: str) -> set[str]:
    """What `__all__` of a module, and of the packages that it lies in, lists."""
    found: set[str] = set()
    while module.startswith(package):
        for node in (source(module) or ast.Module([], [])).body:
            if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__all__":
                found |= set(ast.literal_eval(node.value))
        module = module.rpartition(".")[0]
    return found


def of_module(module: str, tree: ast.Module, around: str, only: str | None, listed: set[str] | None) -> Iterator[Shown]:
    """The public definitions of a module, or one of them; promised is what is listed, without a list all."""
    for node in tree.body:
        if isinstance(node, (ast.FunctionDef, ast.ClassDef)) and (
            node.name == only or (not only and public(node.name))
        ):
            promised = listed is None or node.name in listed
            yield Shown(f"{module}.{node.name}", node, tree, around, promised)
            if isinstance(node, ast.ClassDef):
                inherited = frozenset(ast.unparse(base).split("[")[0] for base in node.bases)
                for method in node.body:
                    if isinstance(method, ast.FunctionDef) and (public(method.name) or method.name == "__init__"):
                        name = f"{module}.{node.name}.{method.name}"
                        yield Shown(name, method, tree, around, promised, node, inherited)


def public(name: str) -> bool:
    """Whether a name is one that readers see."""
    return not name.startswith("_")


# A method that a base class explains says nothing again: what it overrides stands there.
EXPLAINED = {
    "Term": {"forward", "fused", "add_sums", "observe", "discard", "update"},
    "Calibrator": {"fit_voxels", "map", "check", "finished", "plain"},
}


def undocumented(shown: Shown) -> Iterator[str]:
    """Every function, class, method and property has a docstring; a constructor is explained by its class."""
    if document(shown.node) or shown.node.name == "__init__" or overrides(shown):
        return
    yield f"{shown.name}: has no docstring"


def overrides(shown: Shown) -> bool:
    """Whether a method takes the place of one that its base explains."""
    return any(shown.node.name in EXPLAINED.get(base.split(".")[-1], ()) for base in ancestors(shown))


def ancestors(shown: Shown) -> set[str]:
    """Bases of the class of a method, and bases of those in the same file."""
    found, waiting = set(), set(shown.inherited)
    classes = {node.name: node for node in shown.tree.body if isinstance(node, ast.ClassDef)}
    while waiting:
        base = waiting.pop()
        found.add(base)
        if base in classes:
            waiting |= {ast.unparse(one) for one in classes[base].bases} - found
    return found


def unnamed(shown: Shown) -> Iterator[str]:
    """Every parameter occurs in the words around it."""
    if isinstance(shown.node, ast.ClassDef) or overrides(shown) or not shown.promised:
        return
    for argument in parameters(shown.node):
        if not re.search(rf"(?<![\w.]){argument.arg}(?!\w)", shown.words):
            yield f"{shown.name}: says nothing of its parameter {argument.arg}"


def parameters(node: Function) -> list[ast.arg]:
    """The parameters of a function that need an explanation."""
    arguments = node.args
    return [
        a
        for a in [*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs]
        if a.arg not in SELF and public(a.arg)
    ]


def fieldless(shown: Shown) -> Iterator[str]:
    """Every field of a tuple or dataclass, hence parameter of its constructor, occurs in the words around it."""
    if not isinstance(shown.node, ast.ClassDef) or not shown.promised:
        return
    kinds = [ast.unparse(one) for one in [*shown.node.bases, *shown.node.decorator_list]]
    if not any("NamedTuple" in kind or "dataclass" in kind for kind in kinds):
        return
    for name in (ast.unparse(one.target) for one in shown.node.body if isinstance(one, ast.AnnAssign)):
        if public(name) and not re.search(rf"(?<![\w.]){name}(?!\w)", shown.words):
            yield f"{shown.name}: says nothing of its field {name}"


def shapeless(shown: Shown) -> Iterator[str]:
    """A tensor or an array is named with its shape, such as `labels (B, *S)`."""
    if isinstance(shown.node, ast.ClassDef) or overrides(shown) or not shown.promised:
        return
    for argument in parameters(shown.node):
        kind = ast.unparse(argument.annotation) if argument.annotation else ""
        if not re.search(r"\b(Tensor|NDArray|Array)\b", kind):
            continue
        near = re.findall(rf"(?<![\w.]){argument.arg}(?!\w)`?([^\n]{{0,90}}(?:\n[^\n]{{0,60}})?)", shown.words)
        if not any(SHAPE.search(words) for words in near) and "elementwise" not in document(shown.node).lower():
            yield f"{shown.name}: gives no shape of {argument.arg}"


def silent(shown: Shown) -> Iterator[str]:
    """An error that is raised on purpose, here or in a helper beside, is named."""
    if isinstance(shown.node, ast.ClassDef) or overrides(shown) or not shown.promised:
        return
    words = shown.words if shown.node.name == "__init__" else document(shown.node)
    told = set(RAISED.findall(words))
    for error in sorted(raised(shown) - told):
        yield f"{shown.name}: does not say that it raises {error}"


def raised(shown: Shown) -> set[str]:
    """The errors that a function raises itself or by a function of the same file, or method, that it calls."""
    helpers = {node.name: node for node in shown.tree.body if isinstance(node, ast.FunctionDef)}
    methods = {m.name: m for m in (shown.owner.body if shown.owner else ()) if isinstance(m, ast.FunctionDef)}
    found = raises(shown.node)
    for call in (node for node in ast.walk(shown.node) if isinstance(node, ast.Call)):
        if isinstance(call.func, ast.Name) and call.func.id in helpers and not caught(shown.node):
            found |= raises(helpers[call.func.id])
        own = isinstance(call.func, ast.Attribute) and ast.unparse(call.func.value) in ("self", "cls")
        if own and call.func.attr in methods and not caught(shown.node):  # type: ignore[attr-defined]
            found |= raises(methods[call.func.attr])  # type: ignore[attr-defined]
    return found


def raises(node: ast.AST) -> set[str]:
    """The classes of `raise X(...)` in a node; an abstract method's NotImplementedError and a re-raise are none."""
    found, waiting = set(), [node]
    while waiting:
        inner = waiting.pop()
        if isinstance(inner, ast.Raise) and isinstance(inner.exc, ast.Call):
            found.add(ast.unparse(inner.exc.func).rsplit(".", 1)[-1])
        tried = inner.body if isinstance(inner, ast.Try) else []  # what is raised in there may not leave it
        waiting += [child for child in ast.iter_child_nodes(inner) if child not in tried]
    return {name for name in found if name.endswith("Error")} - {"NotImplementedError", "AttributeError"}


def caught(node: ast.AST) -> bool:
    """Whether a function handles errors: then those of its helpers may not leave it."""
    return any(isinstance(inner, ast.Try) for inner in ast.walk(node))


Law = Callable[[Shown], Iterator[str]]
LAWS: tuple[Law, ...] = (undocumented, unnamed, fieldless, shapeless, silent)


def findings() -> list[str]:
    """Every breach of a law."""
    seen: dict[str, None] = {}
    for shown in everything():
        for law in LAWS:
            seen |= dict.fromkeys(law(shown))
    return list(seen)


if __name__ == "__main__":
    sys.stdout.write("".join(f"{line}\n" for line in findings()))
