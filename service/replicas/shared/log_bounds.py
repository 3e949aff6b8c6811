"""Bounds the logs that a replica writes: by the number of their entries, and by their bytes."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from time import monotonic
from typing import Final

LOG_ENTRIES: Final = 2_000
LOG_BYTES: Final = 16 << 20


class _Sizes:
    """The sizes of the last entries of one log."""

    def __init__(self) -> None:
        self.sizes: deque[int] = deque()
        self.bytes = 0
        self.last = 0.0

    def add(self, size: int) -> None:
        self.sizes.append(size)
        self.bytes += size
        while len(self.sizes) > 1 and (len(self.sizes) > LOG_ENTRIES or self.bytes > LOG_BYTES):
            self.bytes -= self.sizes.popleft()


class LogBounds:
    """Says how many entries of each log are to be kept. Each log has one writer, which counts what it appends."""

    def __init__(self, seconds: float, clock: Callable[[], float] = monotonic) -> None:
        """A log to which nothing is appended for `seconds` is forgotten, as the store does."""
        self._seconds = seconds
        self._clock = clock
        self._logs: dict[str, _Sizes] = {}

    def appended(self, log: str, size: int) -> int:
        """The number of entries to keep of a log that has got one of `size` bytes; the newest one at least."""
        if log not in self._logs:
            self._forget()
        one = self._logs.setdefault(log, _Sizes())
        one.last = self._clock()
        one.add(size)
        return len(one.sizes)

    def _forget(self) -> None:
        oldest = self._clock() - self._seconds
        self._logs = {log: one for log, one in self._logs.items() if one.last >= oldest}
