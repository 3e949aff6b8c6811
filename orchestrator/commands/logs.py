"""`kvcache logs`: the service's own lines, from whichever runtime runs it."""

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
    """Prints the log of the service of that name. Raises Problem if there is none."""
    with found_service(name, kind) as (runtime, service):
        for line in runtime.logs(service.name, query):
            console.line(line)


def parse_moment(text: str) -> float:
    """Seconds since the epoch of 10m, 1h30m (so long ago), 2025-01-31T12:00:00Z or 1738324800; raises UsageError."""
    with suppress(ValueError):
        return float(text)
    with suppress(ValueError):
        return time.time() - parse_seconds(text)
    with suppress(ValueError):
        return datetime.fromisoformat(text).timestamp()
    raise UsageError(f"--since: {text!r} is not a valid time.", "Examples: 10m, 2h, 2025-01-31T12:00:00Z")
