"""Compiles reads of fields (`message.role`, `message['role']`, `loop.last`) without a call into the environment.

Most of a template's work is reading fields of dicts; everything else still goes through the sandbox.
"""

from __future__ import annotations

from jinja2 import nodes
from jinja2.compiler import CodeGenerator, Frame

from service.prompts.templates import loops

DICT_ATTRIBUTES = frozenset(dir(dict))

_MAX_NESTED_READS = 16
"""Python limits nested parentheses to 200."""


class FieldReads(CodeGenerator):
    """Generates the same code as jinja2, except for reads of fields with no attribute of dict of that name."""

    _reads = 0
    _nested = 0

    def visit_Template(self, node: nodes.Template, frame: Frame | None = None) -> None:  # noqa: N802 - names are jinja2's
        self.writeline(f"from {loops.__name__} import ListLoop, {loops.loop_over.__name__}")
        super().visit_Template(node, frame)

    def write(self, x: str) -> None:
        # Only the head of a loop ends so: text of a template ends with a quotation mark.
        if x.endswith(" in LoopContext("):
            x = x.replace("LoopContext(", f"{loops.loop_over.__name__}(")
        super().write(x)

    def visit_Getattr(self, node: nodes.Getattr, frame: Frame) -> None:  # noqa: N802
        if node.attr in loops.LOOP_FIELDS and isinstance(node.node, nodes.Name) and node.node.name == "loop":
            self._read_loop(node.node, node.attr, frame)
        elif node.attr in DICT_ATTRIBUTES or self._nested >= _MAX_NESTED_READS:
            super().visit_Getattr(node, frame)
        else:
            self._read(node.node, node.attr, "getattr", frame)

    def visit_Getitem(self, node: nodes.Getitem, frame: Frame) -> None:  # noqa: N802
        if isinstance(node.arg, nodes.Const) and type(node.arg.value) is str and self._nested < _MAX_NESTED_READS:
            self._read(node.node, node.arg.value, "getitem", frame)
        else:
            super().visit_Getitem(node, frame)

    def _read_loop(self, loop: nodes.Name, field: str, frame: Frame) -> None:
        self._reads += 1
        name = f"_o{self._reads}"
        self.write(f"({name}.{field} if type({name} := ")
        self.visit(loop, frame)
        self.write(f") is ListLoop else environment.getattr({name}, {field!r}))")

    def _read(self, owner: nodes.Expr, field: str, otherwise: str, frame: Frame) -> None:
        self._reads += 1
        self._nested += 1
        owner_name, value_name = f"_o{self._reads}", f"_v{self._reads}"
        self.write(f"({value_name} if type({owner_name} := ")
        self.visit(owner, frame)
        self._nested -= 1
        self.write(f") is dict and ({value_name} := {owner_name}.get({field!r}, missing)) is not missing")
        self.write(f" else environment.{otherwise}({owner_name}, {field!r}))")
