"""Small wrong versions of a module: one operator, constant, condition or return value is changed in each."""

from __future__ import annotations

import ast
from dataclasses import dataclass

_COMPARISONS: dict[type[ast.cmpop], type[ast.cmpop]] = {
    ast.Lt: ast.LtE,
    ast.LtE: ast.Lt,
    ast.Gt: ast.GtE,
    ast.GtE: ast.Gt,
    ast.Eq: ast.NotEq,
    ast.NotEq: ast.Eq,
    ast.Is: ast.IsNot,
    ast.IsNot: ast.Is,
    ast.In: ast.NotIn,
    ast.NotIn: ast.In,
}
_ARITHMETIC: dict[type[ast.operator], type[ast.operator]] = {
    ast.Add: ast.Sub,
    ast.Sub: ast.Add,
    ast.Mult: ast.Div,
    ast.Div: ast.Mult,
    ast.FloorDiv: ast.Mult,
    ast.Mod: ast.Mult,
    ast.Pow: ast.Mult,
    ast.BitAnd: ast.BitOr,
    ast.BitOr: ast.BitAnd,
    ast.MatMult: ast.Mult,
}


@dataclass(frozen=True)
class Mutant:
    """The source of a wrong module, and what was changed where."""

    source: str
    line: int
    before: str
    after: str


def count(source: str) -> int:
    """How many mutants a module has."""
    mutator = _Mutator(-1)
    mutator.visit(ast.parse(source))
    return mutator.seen


def mutant(source: str, index: int) -> Mutant:
    """The mutant with this index, from 0 to `count(source)` - 1."""
    mutator = _Mutator(index)
    changed = ast.unparse(ast.fix_missing_locations(mutator.visit(ast.parse(source))))
    assert mutator.made is not None, f"there are {mutator.seen} mutants"
    line, before, after = mutator.made
    return Mutant(changed, line, before, after)


class _Mutator(ast.NodeTransformer):
    """Counts the changes that it could make, and makes the one that is wanted. Types and messages stay."""

    def __init__(self, wanted: int) -> None:
        self.wanted, self.seen = wanted, 0
        self.made: tuple[int, str, str] | None = None

    def _or(self, node: ast.expr, changed: ast.expr) -> ast.expr:
        self.seen += 1
        if self.seen - 1 != self.wanted:
            return node
        self.made = (node.lineno, ast.unparse(node), ast.unparse(changed))
        return ast.copy_location(changed, node)

    def visit_Compare(self, node: ast.Compare) -> ast.expr:
        self.generic_visit(node)
        for place, operator in enumerate(node.ops):
            ops = [*node.ops[:place], _COMPARISONS[type(operator)](), *node.ops[place + 1 :]]
            changed = self._or(node, ast.Compare(node.left, ops, node.comparators))
            if changed is not node:
                return changed
        return node

    def visit_BinOp(self, node: ast.BinOp) -> ast.expr:
        self.generic_visit(node)
        other = _ARITHMETIC.get(type(node.op))
        return self._or(node, ast.BinOp(node.left, other(), node.right)) if other else node

    def visit_AugAssign(self, node: ast.AugAssign) -> ast.AugAssign:
        self.generic_visit(node)
        other = _ARITHMETIC.get(type(node.op))
        if other:
            self.seen += 1
            if self.seen - 1 == self.wanted:
                before = ast.unparse(node)
                node.op = other()
                self.made = (node.lineno, before, ast.unparse(node))
        return node

    def visit_BoolOp(self, node: ast.BoolOp) -> ast.expr:
        self.generic_visit(node)
        return self._or(node, ast.BoolOp(ast.Or() if isinstance(node.op, ast.And) else ast.And(), node.values))

    def visit_UnaryOp(self, node: ast.UnaryOp) -> ast.expr:
        self.generic_visit(node)
        return self._or(node, node.operand)

    def visit_IfExp(self, node: ast.IfExp) -> ast.expr:
        self.generic_visit(node)
        return self._or(node, ast.IfExp(node.test, node.orelse, node.body))

    def visit_Constant(self, node: ast.Constant) -> ast.expr:
        if not isinstance(node.value, bool | int | float):
            return node
        return self._or(node, ast.Constant(not node.value if isinstance(node.value, bool) else node.value + 1))

    def visit_Return(self, node: ast.Return) -> ast.Return:
        self.generic_visit(node)
        if node.value is not None and not (isinstance(node.value, ast.Constant) and node.value.value is None):
            node.value = self._or(node.value, ast.Constant(None))
        return node

    def visit_If(self, node: ast.If) -> ast.If:
        self.generic_visit(node)
        if not isinstance(node.test, ast.Compare | ast.UnaryOp):
            node.test = self._or(node.test, ast.UnaryOp(ast.Not(), node.test))
        return node

    def visit_AnnAssign(self, node: ast.AnnAssign) -> ast.AnnAssign:
        if node.value is not None:
            node.value = self.visit(node.value)
        return node

    def visit_FunctionDef(self, node: ast.FunctionDef) -> ast.FunctionDef:
        node.args.defaults = [self.visit(value) for value in node.args.defaults]
        node.args.kw_defaults = [value and self.visit(value) for value in node.args.kw_defaults]
        node.body = [self.visit(statement) for statement in node.body]
        return node

    def visit_Raise(self, node: ast.Raise) -> ast.Raise:
        return node

    def visit_JoinedStr(self, node: ast.JoinedStr) -> ast.JoinedStr:
        return node

    def visit_Subscript(self, node: ast.Subscript) -> ast.Subscript:
        if isinstance(node.value, ast.Name) and node.value.id[:1].isupper():  # a type such as NDArray[...]
            return node
        self.generic_visit(node)
        return node
