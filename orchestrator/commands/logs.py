"""`kvcache logs`: the service's own log lines, from the runtime that runs it."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from datetime import datetime
from queue import SimpleQueue
from threading import Thread

from orchestrator.console import Console
from orchestrator.errors import Problem, UsageError
from orchestrator.runtimes.base import ContainerRuntime, LogQuery, RuntimeKind, Service
from orchestrator.runtimes.deployed import found_deployed
from service.contract.units import parse_seconds


def show_logs(name: str, kind: RuntimeKind | None, query: LogQuery, console: Console) -> None:
    """Prints the log of the named service, with the container in front of each line if it has several.

    Raises Problem if it does not exist.
    """
    with found_deployed(name, kind) as (runtime, found):
        if found.is_one_service:
            for line in runtime.logs(found.services[0].name, query):
                console.line(line)
            return
        width = max(len(service.name) for service in found.services)
        for service, line in _lines(runtime, found.services, query):
            console.line(f"{service.name:<{width}} | {line}")


def _lines(runtime: ContainerRuntime, services: Sequence[Service], query: LogQuery) -> Iterator[tuple[Service, str]]:
    """The lines of several logs: one log after the other, or as they come if they are followed."""
    if not query.follow:
        for service in services:
            yield from ((service, line) for line in runtime.logs(service.name, query))
        return
    lines: SimpleQueue[tuple[Service, str] | Problem | None] = SimpleQueue()
    for service in services:
        Thread(target=_follow, args=(runtime, service, query, lines), daemon=True).start()
    running = len(services)
    while running:
        got = lines.get()
        if isinstance(got, Problem):
            raise got
        if got is None:
            running -= 1
        else:
            yield got


def _follow(
    runtime: ContainerRuntime,
    service: Service,
    query: LogQuery,
    lines: SimpleQueue[tuple[Service, str] | Problem | None],
) -> None:
    try:
        for line in runtime.logs(service.name, query):
            lines.put((service, line))
        lines.put(None)
    except Problem as problem:
        lines.put(problem)


def parse_moment(text: str) -> float:
    """Parses 10m or 1h30m (before now), 2025-01-31T12:00:00Z or 1738324800 to Unix seconds; raises UsageError."""
    with suppress(ValueError):
        return float(text)
    with suppress(ValueError):
        return time.time() - parse_seconds(text)
    with suppress(ValueError):
        return datetime.fromisoformat(text).timestamp()
    raise UsageError(f"--since: {text!r} is not a valid time.", "Examples: 10m, 2h, 2025-01-31T12:00:00Z")
