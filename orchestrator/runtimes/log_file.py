"""Reads a service's log file as a runtime reads its log: the last lines, lines since a time, and new lines."""

from __future__ import annotations

import re
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from datetime import datetime
from pathlib import Path

from orchestrator.runtimes.base import LogQuery
from orchestrator.runtimes.streams import lines

_POLL_SECONDS = 0.1
_MOMENT = re.compile(r"\d{4}-\d\d-\d\d[T ]\d\d:\d\d:\d\d(?:[.,]\d+)?(?:Z|[+-]\d\d:?\d\d)?")


def read_log(path: Path, query: LogQuery, still_written: Callable[[], bool]) -> Iterator[str]:
    """Lines of the file; with `query.follow`, for as long as `still_written` returns True."""
    try:
        file = path.open("rb")
    except FileNotFoundError:
        return
    with file:
        yield from _last(since(lines(iter(lambda: file.read(1 << 16), b"")), query.since), query.tail)
        if query.follow:
            yield from lines(_growth(file.read, still_written))


def since(log: Iterable[str], moment: float | None) -> Iterator[str]:
    """Lines from the first with a time not before `since`; a line without a time belongs to the previous one."""
    begun = moment is None
    for line in log:
        begun = begun or (moment is not None and (_moment(line) or 0.0) >= moment)
        if begun:
            yield line


def _last(log: Iterable[str], tail: int | None) -> Iterable[str]:
    return log if tail is None else deque(log, maxlen=tail)


def _moment(line: str) -> float | None:
    """The time near the beginning of a line (a plain prefix, or a field of JSON)."""
    match = _MOMENT.search(line, 0, 200)
    try:
        return datetime.fromisoformat(match[0].replace(",", ".")).timestamp() if match else None
    except ValueError:
        return None


def _growth(read: Callable[[], bytes], still_written: Callable[[], bool]) -> Iterator[bytes]:
    while True:
        last_look = not still_written()
        if chunk := read():
            yield chunk
        elif last_look:
            return
        else:
            time.sleep(_POLL_SECONDS)
