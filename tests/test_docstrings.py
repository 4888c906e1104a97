"""Docstrings of the reference say what they owe: laws in docstring_laws.py, and here that these can find something."""

from __future__ import annotations

import ast
import inspect
import re
import sys

import docstring_laws as laws
import pytest

from medcalib import losses

# False alarms, with the reason.
ALLOWED = {
    "medcalib.data.nifti.write_volume: does not say that it raises ValueError": "the whole array is its one slab",
}
SOURCE = re.compile(r"\b(References?|Source): ")
FORMULA = re.compile(r"[=^*/]|sum_|relu|log |mean over")


def test_no_docstring_owes_anything() -> None:
    owed = [line for line in laws.findings() if line not in ALLOWED]
    assert not owed, "\n".join(owed)


def test_no_false_alarm_is_out_of_date() -> None:
    assert set(laws.findings()) >= ALLOWED.keys()


@pytest.mark.parametrize("name", losses.TERMS)
def test_every_term_gives_its_formula_and_where_it_is_from(name: str) -> None:
    term = losses.TERMS[name]
    words = " ".join(inspect.getdoc(kind) or "" for kind in term.__mro__ if issubclass(kind, losses.Term))
    module = sys.modules[term.__module__]
    functions = [f for f in vars(module).values() if inspect.isfunction(f) and f.__module__ == module.__name__]
    assert SOURCE.search(words), f"{term.__name__} names no paper"
    assert FORMULA.search(" ".join([inspect.getdoc(term) or "", *(inspect.getdoc(f) or "" for f in functions)]))


def of(text: str, name: str) -> laws.Shown:
    """A function of a module, or a method `Class.method`, as the laws see it."""
    tree = ast.parse(text)
    found = {shown.name: shown for shown in laws.of_module("m", tree, laws.document(tree), None, None)}
    return found[f"m.{name}"]


FAULTY = '''"""What `known` is: a number."""
def bare(x): ...

def f(x: Tensor, y: Tensor, known, z):
    """Adds x (B, *S) to y."""
    _check(x)
    raise DataError("bad")

def g(x: Tensor):
    """x, elementwise. Raises ValueError, and `DataError` never leaves it."""
    try:
        raise DataError("bad")
    except DataError:
        _check(x)

def _check(x):
    raise ValueError("bad")

class Base:
    """With `size`."""
    def __init__(self, size, weight):
        _check(size)

    @property
    def area(self): ...

class Pair(NamedTuple):
    """With `first`."""
    first: int
    second: int = 0

class Own(Term):
    """A term."""
    def forward(self, logits, labels, valid): ...
    def others(self, logits): ...
'''


@pytest.mark.parametrize(
    ("law", "name", "expected"),
    [
        (laws.undocumented, "bare", ["has no docstring"]),
        (laws.undocumented, "f", []),
        (laws.undocumented, "Base.area", ["has no docstring"]),
        (laws.undocumented, "Base.__init__", []),
        (laws.undocumented, "Own.forward", []),
        (laws.undocumented, "Own.others", ["has no docstring"]),
        (laws.unnamed, "f", ["says nothing of its parameter z"]),
        (laws.unnamed, "Base.__init__", ["says nothing of its parameter weight"]),
        (laws.fieldless, "Pair", ["says nothing of its field second"]),
        (laws.fieldless, "Base", []),
        (laws.shapeless, "f", ["gives no shape of y"]),
        (laws.shapeless, "g", []),
        (laws.silent, "f", ["does not say that it raises DataError", "does not say that it raises ValueError"]),
        (laws.silent, "g", []),
        (laws.silent, "Base.__init__", ["does not say that it raises ValueError"]),
    ],
)
def test_a_law_finds_what_is_owed(law: laws.Law, name: str, expected: list[str]) -> None:
    assert list(law(of(FAULTY, name))) == [f"m.{name}: {owed}" for owed in expected]


def test_the_laws_see_the_whole_reference() -> None:
    shown = [one.name for one in laws.everything()]
    assert len(shown) > 400
    assert {"medcalib.losses.build", "medcalib.ops.scoring.Scorer.add", "medcalib.errors.Problem"} <= set(shown)
