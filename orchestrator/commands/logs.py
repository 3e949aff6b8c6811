"""`kvcache logs`: the service's own lines, from whichever runtime runs it."""

from __future__ import annotations

import re
import time
from contextlib import closing
from datetime import datetime

from orchestrator.console import Console
from orchestrator.errors import Problem, UsageError
from orchestrator.runtimes.base import LogQuery, RuntimeKind
from orchestrator.runtimes.discovery import answering

_AGO = re.compile(r"(?:(\d+)d)?(?:(\d+)h)?(?:(\d+)m)?(?:(\d+(?:\.\d+)?)s)?")
_SECONDS = (86400, 3600, 60, 1)


def show_logs(name: str, kind: RuntimeKind | None, query: LogQuery, console: Console) -> None:
    """Prints the log of the service of that name; the first runtime that has one counts. Raises Problem if none has."""
    for runtime in answering(kind):
        with closing(runtime):
            service = runtime.find(name)
            if service is not None and service.ours:
                for line in runtime.logs(name, query):
                    console.line(line)
                return
    raise Problem(f"There is no service named {name}.", "See kvcache status, or start it: kvcache up")


def parse_moment(text: str) -> float:
    """Seconds since the epoch of 10m, 1h30m (so long ago), 2025-01-31T12:00:00Z or 1738324800; raises UsageError."""
    if (ago := _AGO.fullmatch(text)) and text:
        return time.time() - sum(
            float(number) * seconds for number, seconds in zip(ago.groups(), _SECONDS, strict=True) if number
        )
    try:
        return float(text)
    except ValueError:
        pass
    try:
        return datetime.fromisoformat(text).timestamp()
    except ValueError:
        raise UsageError(f"--since: {text!r} is no time.", "Examples: 10m, 2h, 2025-01-31T12:00:00Z") from None
