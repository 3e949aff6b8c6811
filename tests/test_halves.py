"""The rooms of the program, and who may import whom."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import ROOT

FORBIDDEN = {
    "orchestrator": ("service",),
    "service": ("orchestrator",),
    "service/index": ("service.api", "service.events", "service.prompts", "service.app"),
    "service/events": ("service.api", "service.prompts", "service.app"),
    "service/prompts": ("service.api", "service.events", "service.app"),
}


def imports(folder: Path) -> Iterator[tuple[Path, str]]:
    for file in folder.rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                yield from ((file, alias.name) for alias in node.names)
            elif isinstance(node, ast.ImportFrom) and node.module:
                yield file, node.module


@pytest.mark.parametrize("room", FORBIDDEN)
def test_a_room_imports_nothing_that_it_must_not_know(room: str) -> None:
    found = list(imports(ROOT / room))
    assert found
    wrong = [
        f"{file.relative_to(ROOT)} imports {module}"
        for file, module in found
        if any(f"{module}.".startswith(f"{name}.") for name in FORBIDDEN[room])
    ]
    assert not wrong
