"""Finds the available runtimes and chooses one."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from orchestrator.errors import Problem, RuntimeUnavailable
from orchestrator.runtimes.base import ContainerRuntime, RuntimeKind


@dataclass(frozen=True)
class Choice:
    """A runtime that answers, and the reason for choosing it."""

    runtime: ContainerRuntime
    reason: str


def choose(kind: RuntimeKind | None) -> Choice:
    """The requested runtime; for None, the first of Podman, Docker and a child process that answers. Raises Problem."""
    if kind is not None:
        return Choice(connect(kind), "as asked for")
    refused: list[RuntimeUnavailable] = []
    for candidate in RuntimeKind:
        try:
            runtime = connect(candidate)
        except RuntimeUnavailable as error:
            refused.append(error)
        else:
            return Choice(
                runtime, "; ".join(["the first that answers", *(error.what.rstrip(".") for error in refused)])
            )
    raise Problem(
        f"There is nothing to run the service on. {' '.join(error.what for error in refused)}",
        f"Install Podman (https://podman.io/docs/installation); or, to do without, {refused[-1].remedy[0].lower()}"
        f"{refused[-1].remedy[1:]}",
    )


def answering(kind: RuntimeKind | None, silent: list[RuntimeUnavailable] | None = None) -> Iterator[ContainerRuntime]:
    """Every runtime that answers, or the requested one (then raises RuntimeUnavailable if it does not).

    Errors of installed runtimes that do not answer are appended to `silent`: their services are unknown.
    """
    if kind is not None:
        yield connect(kind)
        return
    for candidate in RuntimeKind:
        try:
            yield connect(candidate)
        except RuntimeUnavailable as error:
            if silent is not None and error.installed:
                silent.append(error)


def not_found(what: str, silent: list[RuntimeUnavailable]) -> Problem:
    """A problem that names the installed runtimes that did not answer and may run the service."""
    return Problem(
        f"{what}, but not every runtime answers: {' '.join(error.what for error in silent)}", silent[0].remedy
    )


def connect(kind: RuntimeKind) -> ContainerRuntime:
    """Raises RuntimeUnavailable. Imported here: loading an SDK takes longer than most commands take to run."""
    return _CONNECT[kind]()


def _podman() -> ContainerRuntime:
    from orchestrator.runtimes.podman import Podman  # noqa: PLC0415

    return Podman.connect()


def _docker() -> ContainerRuntime:
    from orchestrator.runtimes.docker import Docker  # noqa: PLC0415

    return Docker.connect()


def _process() -> ContainerRuntime:
    from orchestrator.runtimes.process import Processes  # noqa: PLC0415

    return Processes.connect()


_CONNECT: dict[RuntimeKind, Callable[[], ContainerRuntime]] = {
    RuntimeKind.PODMAN: _podman,
    RuntimeKind.DOCKER: _docker,
    RuntimeKind.PROCESS: _process,
}
