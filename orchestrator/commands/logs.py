"""`kvcache logs`: the service's own lines, from whichever runtime runs it."""

from __future__ import annotations

import time
from contextlib import closing, suppress
from datetime import datetime

from orchestrator.console import Console
from orchestrator.errors import Problem, RuntimeUnavailable, UsageError
from orchestrator.runtimes.base import LogQuery, RuntimeKind
from orchestrator.runtimes.discovery import answering, not_found
from service.contract.units import parse_seconds


def show_logs(name: str, kind: RuntimeKind | None, query: LogQuery, console: Console) -> None:
    """Prints the log of the service of that name; the first runtime that has one counts. Raises Problem if none has."""
    silent: list[RuntimeUnavailable] = []
    for runtime in answering(kind, silent):
        with closing(runtime):
            service = runtime.find(name)
            if service is not None and service.ours:
                for line in runtime.logs(name, query):
                    console.line(line)
                return
    if silent:
        raise not_found(f"There is no service named {name}", silent)
    raise Problem(f"There is no service named {name}.", "See kvcache status, or start it: kvcache up")


def parse_moment(text: str) -> float:
    """Seconds since the epoch of 10m, 1h30m (so long ago), 2025-01-31T12:00:00Z or 1738324800; raises UsageError."""
    with suppress(ValueError):
        return float(text)
    with suppress(ValueError):
        return time.time() - parse_seconds(text)
    with suppress(ValueError):
        return datetime.fromisoformat(text).timestamp()
    raise UsageError(f"--since: {text!r} is not a valid time.", "Examples: 10m, 2h, 2025-01-31T12:00:00Z")
