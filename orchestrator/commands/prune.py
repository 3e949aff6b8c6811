"""`kvcache prune`: removes images that no service uses, and leftovers of killed commands."""

from __future__ import annotations

from contextlib import closing

from orchestrator.console import Console
from orchestrator.errors import RuntimeUnavailable
from orchestrator.runtimes.base import RuntimeKind
from orchestrator.runtimes.discovery import answering
from orchestrator.sweep import sweep


def prune(kind: RuntimeKind | None, console: Console) -> None:
    """Prunes every runtime that answers. Keeps services, running or stopped, and the hub cache."""
    removed = 0
    silent: list[RuntimeUnavailable] = []
    for runtime in answering(kind, silent):
        with closing(runtime):
            sweep(runtime, console)
            for name in runtime.images.prune() if runtime.images else ():
                console.step(f"Removed {name} on {runtime.kind}")
                removed += 1
    for error in silent:
        console.warn(f"Not every runtime answers: {error.what}", error.remedy)
    if not removed:
        console.step("Nothing to remove")
