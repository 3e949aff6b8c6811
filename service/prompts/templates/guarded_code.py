"""Python code of a guarded chat template, in which the steps that most templates consist of call nothing.

What is read of a dict is read right there when the dict has it, and only otherwise by the environment; a loop over a
list goes on in compiled code, as long as the template reads nothing of `loop` but its fields.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from jinja2 import nodes
from jinja2.compiler import CodeGenerator, Frame
from jinja2.runtime import LoopContext, Undefined

from service.native.backend import Iteration
from service.prompts.templates.environment import DICT_ATTRIBUTES, LOOP_FIELDS


class GuardedCode(CodeGenerator):
    """Reads fields as the guarded environment does, in less time."""

    _reads = 0

    def visit_Template(self, node: nodes.Template, frame: Frame | None = None) -> None:  # noqa: N802 - names are jinja2's
        super().visit_Template(node, frame)
        self.writeline("Iteration = environment.iteration")
        if _reads_only_fields_of_loops(node):
            self.writeline("LoopContext = environment.loop")

    def visit_Getattr(self, node: nodes.Getattr, frame: Frame) -> None:  # noqa: N802
        if isinstance(node.node, nodes.Name) and node.node.name == "loop" and node.attr in LOOP_FIELDS:
            self._reads += 1
            value = f"_o{self._reads}"
            self.write(f"({value}.{node.attr} if type({value} := ")
            self.visit(node.node, frame)
            self.write(f") is Iteration else environment.getattr({value}, {node.attr!r}))")
        elif node.attr in DICT_ATTRIBUTES:
            super().visit_Getattr(node, frame)
        else:
            self._read(node.node, node.attr, "getattr", frame)

    def visit_Getitem(self, node: nodes.Getitem, frame: Frame) -> None:  # noqa: N802
        if isinstance(node.arg, nodes.Const) and type(node.arg.value) is str:
            self._read(node.node, node.arg.value, "getitem", frame)
        else:
            super().visit_Getitem(node, frame)

    def _read(self, source: nodes.Expr, field: str, otherwise: str, frame: Frame) -> None:
        self._reads += 1
        owner, value = f"_o{self._reads}", f"_v{self._reads}"
        self.write(f"({value} if type({owner} := ")
        self.visit(source, frame)
        self.write(f") is dict and ({value} := {owner}.get({field!r}, missing)) is not missing")
        self.write(f" else environment.{otherwise}({owner}, {field!r}))")


def loop(iterable: Iterable[Any], undefined: type[Undefined]) -> Iterable[Any]:
    """What goes through a loop of a template that reads nothing of `loop` but its fields."""
    return Iteration(iterable, undefined) if type(iterable) is list else LoopContext(iterable, undefined)


def _reads_only_fields_of_loops(tree: nodes.Template) -> bool:
    uses = sum(1 for name in tree.find_all(nodes.Name) if name.name == "loop")
    reads = sum(
        1
        for read in tree.find_all(nodes.Getattr)
        if isinstance(read.node, nodes.Name) and read.node.name == "loop" and read.attr in LOOP_FIELDS
    )
    return uses == reads
