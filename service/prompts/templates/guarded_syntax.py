"""Puts checks into a chat template's syntax tree, wherever a step could take long or make something large.

The checks are filters of `guarded_environment`, which says what they are for: `_tick` looks at the clock, `_bounded` at
the length of a sum, `_flat` at what a list, a tuple or a dict holds, `_single` at what a namespace is to hold.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from jinja2 import nodes
from jinja2.visitor import NodeTransformer

_MOST_OPERANDS = 64
_MOST_FILTERS = 300

_STATEMENTS = (
    nodes.Assign,
    nodes.AssignBlock,
    nodes.Break,
    nodes.CallBlock,
    nodes.Continue,
    nodes.FilterBlock,
    nodes.For,
    nodes.If,
    nodes.Macro,
    nodes.Output,
    nodes.With,
)


class TooMuch(Exception):
    """The rendering is not quick, or does what may not be: leave it to another process."""


def guard(tree: nodes.Template) -> None:
    """Changes the tree; raises TooMuch for one that does what no check covers, or more than checks keep up with."""
    if sum(1 for _ in tree.find_all(nodes.Filter)) > _MOST_FILTERS:
        raise TooMuch
    _Guard().visit(tree)


class _Guard(NodeTransformer):
    """Puts the checks into a template's syntax tree; raises TooMuch where there is what no check covers."""

    def visit(self, node: nodes.Node, *args: Any, **kwargs: Any) -> Any:
        if isinstance(node, nodes.Stmt) and not isinstance(node, _STATEMENTS):
            raise TooMuch
        return super().visit(node, *args, **kwargs)

    def visit_For(self, node: nodes.For) -> nodes.Node:  # noqa: N802 - jinja2 finds visitors by the node's name
        if node.recursive:
            raise TooMuch
        return self._ticking(node)

    def visit_Macro(self, node: nodes.Macro) -> nodes.Node:  # noqa: N802
        return self._ticking(node)

    def visit_CallBlock(self, node: nodes.CallBlock) -> nodes.Node:  # noqa: N802
        return self._ticking(node)

    def visit_Name(self, node: nodes.Name) -> nodes.Node:  # noqa: N802
        # What a macro was called with beyond its parameters: these hold what holds something.
        if node.name in ("varargs", "kwargs"):
            raise TooMuch
        return node

    def visit_Assign(self, node: nodes.Assign) -> nodes.Node:  # noqa: N802
        self.generic_visit(node)
        if isinstance(node.target, nodes.NSRef) and not isinstance(node.node, nodes.Const):
            node.node = _checked("_single", node.node)
        return node

    def visit_Output(self, node: nodes.Output) -> nodes.Node:  # noqa: N802
        # What is put out at once needs no check of its length, which is checked where the output comes together.
        node.nodes = [
            self._operands(part) if isinstance(part, nodes.Add) and _is_text(part) else self.visit(part)
            for part in node.nodes
        ]
        return node

    def visit_Add(self, node: nodes.Add) -> nodes.Node:  # noqa: N802
        return _checked("_bounded", self._operands(node))

    def visit_Concat(self, node: nodes.Concat) -> nodes.Node:  # noqa: N802
        if len(node.nodes) > _MOST_OPERANDS:
            raise TooMuch
        return _checked("_bounded", self.generic_visit(node))

    def visit_List(self, node: nodes.List) -> nodes.Node:  # noqa: N802
        return self._literal(node, node.items)

    def visit_Tuple(self, node: nodes.Tuple) -> nodes.Node:  # noqa: N802
        return self._literal(node, node.items) if node.ctx == "load" else node

    def visit_Dict(self, node: nodes.Dict) -> nodes.Node:  # noqa: N802
        return self._literal(node, [pair.value for pair in node.items])

    def _literal(self, node: nodes.Node, items: list[nodes.Expr]) -> nodes.Node:
        self.generic_visit(node)
        return node if all(isinstance(item, nodes.Const) for item in items) else _checked("_flat", node)

    def _operands(self, node: nodes.Add) -> nodes.Add:
        """Visits a sum's operands, and leaves the sums that it is made of as they are."""
        if sum(1 for _ in _summands(node)) > _MOST_OPERANDS:
            raise TooMuch
        for side in ("left", "right"):
            operand = getattr(node, side)
            setattr(node, side, self._operands(operand) if isinstance(operand, nodes.Add) else self.visit(operand))
        return node

    def _ticking(self, node: nodes.For | nodes.Macro | nodes.CallBlock) -> nodes.Node:
        self.generic_visit(node)
        node.body.insert(0, nodes.ExprStmt(_checked("_tick", nodes.Const(None))).set_lineno(node.lineno))
        return node


def _checked(name: str, node: nodes.Node) -> nodes.Filter:
    check = nodes.Filter(node, name, [], [], None, None)
    check.set_lineno(node.lineno or 1)
    return check


def _summands(node: nodes.Expr) -> Iterator[nodes.Expr]:
    if isinstance(node, nodes.Add):
        yield from _summands(node.left)
        yield from _summands(node.right)
    else:
        yield node


def _is_text(node: nodes.Add) -> bool:
    return any(isinstance(part, nodes.Const) and isinstance(part.value, str) for part in _summands(node))
