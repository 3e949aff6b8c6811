"""Which engines are here, and which one is taken."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from orchestrator.errors import EngineUnavailable, Problem
from orchestrator.runtimes.base import Engine, EngineKind


@dataclass(frozen=True)
class Choice:
    """An engine that answers, and why it was taken."""

    engine: Engine
    reason: str


def choose(kind: EngineKind | None) -> Choice:
    """The engine asked for, or for None a Podman that answers, else a Docker, else a child process. Raises Problem."""
    if kind is not None:
        return Choice(connect(kind), "as asked for")
    refused: list[str] = []
    for candidate in EngineKind:
        try:
            engine = connect(candidate)
        except EngineUnavailable as error:
            refused.append(error.what)
        else:
            return Choice(engine, " ".join([*refused, "It answers."]) if refused else "the first that answers")
    raise Problem(
        f"There is nothing to run the service on. {' '.join(refused)}",
        "Install Podman (https://podman.io/docs/installation); or, to do without: pip install 'kvcache[service]'",
    )


def answering(kind: EngineKind | None) -> Iterator[Engine]:
    """Every engine that answers, or the one asked for (then raises EngineUnavailable if it does not)."""
    if kind is not None:
        yield connect(kind)
        return
    for candidate in EngineKind:
        try:
            yield connect(candidate)
        except EngineUnavailable:
            continue


def connect(kind: EngineKind) -> Engine:
    """Raises EngineUnavailable. Imported here: an SDK takes longer to load than most commands to run."""
    return _CONNECT[kind]()


def _podman() -> Engine:
    from orchestrator.runtimes.podman import Podman  # noqa: PLC0415

    return Podman.connect()


def _docker() -> Engine:
    from orchestrator.runtimes.docker import Docker  # noqa: PLC0415

    return Docker.connect()


def _process() -> Engine:
    from orchestrator.runtimes.process import Processes  # noqa: PLC0415

    return Processes.connect()


_CONNECT: dict[EngineKind, Callable[[], Engine]] = {
    EngineKind.PODMAN: _podman,
    EngineKind.DOCKER: _docker,
    EngineKind.PROCESS: _process,
}
