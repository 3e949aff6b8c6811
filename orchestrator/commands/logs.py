"""`kvcache logs`: the service's own log lines, from the runtime that runs it."""

from __future__ import annotations

import time
from contextlib import suppress
from datetime import datetime

from orchestrator.console import Console
from orchestrator.errors import UsageError
from orchestrator.runtimes.base import LogQuery, RuntimeKind
from orchestrator.runtimes.discovery import found_service
from service.contract.units import parse_seconds


def show_logs(name: str, kind: RuntimeKind | None, query: LogQuery, console: Console) -> None:
    """Prints the log of the named service. Raises Problem if it does not exist."""
    with found_service(name, kind) as (runtime, service):
        for line in runtime.logs(service.name, query):
            console.line(line)


def parse_moment(text: str) -> float:
    """Parses 10m or 1h30m (before now), 2025-01-31T12:00:00Z or 1738324800 to Unix seconds; raises UsageError."""
    with suppress(ValueError):
        return float(text)
    with suppress(ValueError):
        return time.time() - parse_seconds(text)
    with suppress(ValueError):
        return datetime.fromisoformat(text).timestamp()
    raise UsageError(f"--since: {text!r} is not a valid time.", "Examples: 10m, 2h, 2025-01-31T12:00:00Z")
