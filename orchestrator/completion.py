"""Values that the shell completes. Nothing here raises or prints: the user is in the middle of a line."""

from __future__ import annotations

import subprocess
from collections.abc import Iterable, Iterator
from contextlib import suppress

from orchestrator.host.state import service_folders
from orchestrator.runtimes.base import NAME_LABEL, RuntimeKind
from service.contract.discovery import CONTAINERS, DNS, FILE, KUBERNETES

_ANSWER_SECONDS = 3
_MEANINGS = (
    ("auto", "the first that answers, or all"),
    (RuntimeKind.PODMAN.value, "a container"),
    (RuntimeKind.DOCKER.value, "a container"),
    (RuntimeKind.PROCESS.value, "a child process, no container"),
)


def services(incomplete: str) -> Iterable[str]:
    """The names of all services that start so.

    Asks the runtimes' own commands, which answer in a tenth of the time that it takes to load their libraries.
    """
    names = {*service_folders(RuntimeKind.PROCESS), *_containers()}
    return sorted(name for name in names if name.startswith(incomplete))


def _containers() -> Iterator[str]:
    asked = []
    for kind in (RuntimeKind.PODMAN, RuntimeKind.DOCKER):
        command = [kind.value, "ps", "--all", "--filter", f"label={NAME_LABEL}", "--format", "{{.Names}}"]
        with suppress(OSError):
            asked.append(
                subprocess.Popen(  # noqa: S603 - the runtime's own command
                    command,
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.PIPE,
                    stderr=subprocess.DEVNULL,
                    text=True,
                )
            )
    for process in asked:
        try:
            output, _ = process.communicate(timeout=_ANSWER_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.communicate()
        else:
            yield from output.split()


def runtimes(incomplete: str) -> Iterable[tuple[str, str]]:
    return [(name, meaning) for name, meaning in _MEANINGS if name.startswith(incomplete)]


def sources(incomplete: str) -> Iterable[str]:
    """The kinds of sources of pods."""
    return [kind for kind in (CONTAINERS, f"{DNS}:", f"{FILE}:", f"{KUBERNETES}:") if kind.startswith(incomplete)]
