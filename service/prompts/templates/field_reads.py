"""Compiles reads of fields (`message.role`, `message['role']`) to a dict lookup without a call into the environment.

Most of a template's work is reading fields of dicts; everything else still goes through the sandbox.
"""

from __future__ import annotations

from jinja2 import nodes
from jinja2.compiler import CodeGenerator, Frame

DICT_ATTRIBUTES = frozenset(dir(dict))

_MAX_NESTED_READS = 16
"""Python limits nested parentheses to 200."""


class FieldReads(CodeGenerator):
    """Generates the same code as jinja2, except for reads of fields with no attribute of dict of that name."""

    _reads = 0
    _nested = 0

    def visit_Getattr(self, node: nodes.Getattr, frame: Frame) -> None:  # noqa: N802 - names are jinja2's
        if node.attr in DICT_ATTRIBUTES or self._nested >= _MAX_NESTED_READS:
            super().visit_Getattr(node, frame)
        else:
            self._read(node.node, node.attr, "getattr", frame)

    def visit_Getitem(self, node: nodes.Getitem, frame: Frame) -> None:  # noqa: N802
        if isinstance(node.arg, nodes.Const) and type(node.arg.value) is str and self._nested < _MAX_NESTED_READS:
            self._read(node.node, node.arg.value, "getitem", frame)
        else:
            super().visit_Getitem(node, frame)

    def _read(self, owner: nodes.Expr, field: str, otherwise: str, frame: Frame) -> None:
        self._reads += 1
        self._nested += 1
        owner_name, value_name = f"_o{self._reads}", f"_v{self._reads}"
        self.write(f"({value_name} if type({owner_name} := ")
        self.visit(owner, frame)
        self._nested -= 1
        self.write(f") is dict and ({value_name} := {owner_name}.get({field!r}, missing)) is not missing")
        self.write(f" else environment.{otherwise}({owner_name}, {field!r}))")
