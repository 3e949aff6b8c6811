"""The rooms of the program (docs/architecture.md) and the direction of their imports.

A room is a folder; a file that stands beside folders is a room of its own. Imports at the top of a file count, also
under TYPE_CHECKING; those in functions are there to start quickly, and are checked only where two halves or the index
must not meet.
"""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterable, Iterator, Mapping
from functools import cache
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

from tests.conftest import ROOT

# From the ground up: a room imports only rooms of lower floors.
FLOORS: tuple[frozenset[str], ...] = tuple(
    frozenset(floor.split())
    for floor in (
        "service.contract",
        "service.tls service.native service.log service.byte_lru service.histogram service.healthcheck service.tracing "
        "service.unix_socket service.lookups service.quiet",
        "service.event_loop",
        "service.replicas.shared",
        "service.index service.prompts.errors service.prompts.options",
        "service.prompts.truncation service.prompts.workers",
        "service.prompts.chat",
        "service.prompts.templates service.prompts.tokens",
        "service.prompts.renderers",
        "service.prompts.models",
        "service.fleet",
        "service.fleet.discovery",
        "service.events service.parity service.announcement",
        "service.offline service.workers",
        "service.routing",
        "service.simulation service.gateway service.readiness service.replicas service.ui",
        "service.api",
        "service.metrics service.access_log service.connection service.listener service.allocator",
        "service.app service.drain",
        "service.server",
        "service.serving service.commands",
        "service.__main__",
        "orchestrator.errors orchestrator.proxies",
        "orchestrator.health orchestrator.host orchestrator.config",
        "orchestrator.runtimes",
        "orchestrator.engines",
        "orchestrator.launch orchestrator.endpoints orchestrator.exposition orchestrator.service_client",
        "orchestrator.mounted_files",
        "orchestrator.deployment",
        "orchestrator.publishing orchestrator.systemd orchestrator.cautions",
        "orchestrator.workload orchestrator.image",
        "orchestrator.store",
        "orchestrator.console orchestrator.doctor orchestrator.rendering",
        "orchestrator.readiness orchestrator.run_command orchestrator.sweep",
        "orchestrator.commands",
        "orchestrator.completion orchestrator.examples",
        "orchestrator.options",
        "orchestrator.cli",
        "orchestrator.__main__",
    )
)

# What a room must not know, although it is on a lower floor. The first that matches a room's name counts.
FORBIDDEN: Mapping[str, tuple[str, ...]] = {
    "service.contract": ("service", "orchestrator"),
    "service.native": ("service.contract",),
    "service.events": ("service.prompts",),
    "service.fleet": ("service.index", "service.prompts"),
    "service.routing": ("service.events", "service.prompts.models"),
    "service.prompts": ("service.index.memory",),
}


def _modules() -> dict[str, Path]:
    found = {}
    for half in ("orchestrator", "service"):
        for file in (ROOT / half).rglob("*.py"):
            parts = file.relative_to(ROOT).with_suffix("").parts
            found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = file
    return found


MODULES = _modules()
PACKAGES = {name for name, file in MODULES.items() if file.name == "__init__.py"}
HOUSES = {name.rpartition(".")[0] for name in PACKAGES} - {"", "service.replicas", "service.fleet"}
"""Packages that hold other packages. The files of `service.replicas` are one room, above its folder `shared`;
those of `service.fleet` are one, below its folder `discovery`."""


def room(module: str) -> str:
    """The room of a module; a house's own __init__ belongs to none of them and is named as the house."""
    if module in PACKAGES:
        return module
    package = module.rpartition(".")[0]
    return module if package in HOUSES else package


def imported(nodes: Iterable[ast.AST]) -> Iterator[str]:
    """Modules of ours that statements import."""
    for node in nodes:
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name in MODULES)
        elif isinstance(node, ast.ImportFrom) and node.module:
            for alias in node.names:
                whole = f"{node.module}.{alias.name}"
                if (module := whole if whole in MODULES else node.module) in MODULES:
                    yield module


@cache
def _tree(module: str) -> ast.Module:
    return ast.parse(MODULES[module].read_text(encoding="utf-8"))


def _at_the_top(statements: Iterable[ast.stmt]) -> Iterator[ast.stmt]:
    """The statements of a file that are in no function or class; also those that run for type checkers alone."""
    for statement in statements:
        yield statement
        if isinstance(statement, ast.If):
            yield from _at_the_top([*statement.body, *statement.orelse])


@cache
def at_the_top() -> Mapping[str, set[str]]:
    return {module: set(imported(_at_the_top(_tree(module).body))) - {module} for module in MODULES}


@cache
def anywhere() -> Mapping[str, set[str]]:
    return {module: set(imported(ast.walk(_tree(module)))) - {module} for module in MODULES}


def _rooms(imports: Mapping[str, set[str]]) -> dict[str, set[str]]:
    rooms: dict[str, set[str]] = {}
    for module, others in imports.items():
        rooms.setdefault(room(module), set()).update({room(other) for other in others} - {room(module)})
    return rooms


def _circle(graph: Mapping[str, set[str]]) -> list[str]:
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        return list(error.args[1])
    return []


def test_every_room_is_on_a_floor() -> None:
    rooms = {room(module) for module in MODULES} - HOUSES
    assert rooms - frozenset[str]().union(*FLOORS) == set()


def test_no_file_imports_itself_through_others() -> None:
    assert _circle(at_the_top()) == []


def test_no_room_imports_itself_through_others() -> None:
    assert _circle(_rooms(at_the_top())) == []


def test_imports_between_rooms_run_down() -> None:
    floor = {name: number for number, names in enumerate(FLOORS) for name in names}
    up = {
        f"{name} -> {other}"
        for name, others in _rooms(at_the_top()).items()
        for other in others
        if name not in HOUSES and other not in HOUSES and floor[other] >= floor[name]
    }
    assert up == set()


def test_no_room_imports_what_it_must_not_know() -> None:
    wrong = {
        f"{room(module)} -> {room(other)}"
        for module, others in anywhere().items()
        for other in others
        for name, unknown in FORBIDDEN.items()
        if f"{module}.".startswith(f"{name}.")
        and any(f"{other}.".startswith(f"{forbidden}.") for forbidden in unknown)
        and room(module) != room(other)
    }
    assert wrong == set()


def test_the_halves_meet_only_in_the_contract() -> None:
    wrong = {
        f"{module} -> {other}"
        for module, others in anywhere().items()
        for other in others
        if module.partition(".")[0] != other.partition(".")[0]
        and not (module.startswith("orchestrator") and room(other) == "service.contract")
    }
    assert wrong == set()


def test_the_contract_needs_only_the_standard_library() -> None:
    needed = {
        name.partition(".")[0]
        for module in MODULES
        if module.startswith("service.contract")
        for node in ast.walk(_tree(module))
        for name in (
            [alias.name for alias in node.names]
            if isinstance(node, ast.Import)
            else [node.module or ""]
            if isinstance(node, ast.ImportFrom)
            else []
        )
    }
    assert needed - sys.stdlib_module_names == {"service"}
