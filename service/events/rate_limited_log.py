"""Rate-limited logging: repeated events are logged once, with their count."""

from __future__ import annotations

import logging
from time import monotonic

_INTERVAL = 10.0
_MAX_SUBJECTS = 10_000
_MAX_LINES = 200


class RateLimitedLog:
    """Logs each message about each subject at most once per interval, and at most 200 lines per interval in all."""

    def __init__(self, logger: logging.Logger, interval: float = _INTERVAL) -> None:
        self._logger = logger
        self._interval = interval
        self._last_logged: dict[tuple[str, object], tuple[float, int]] = {}
        self._interval_began_at = -interval
        self._lines = 0

    def log(self, level: int, subject: object, message: str, *arguments: object) -> None:
        """Logs a line, or counts it for the next line of its kind."""
        now = monotonic()
        logged_at, suppressed = self._last_logged.get((message, subject), (-self._interval, 0))
        if now - logged_at < self._interval:
            self._last_logged[message, subject] = logged_at, suppressed + 1
            return
        if now - self._interval_began_at >= self._interval:
            self._begin_interval(now)
        self._lines += 1
        if self._lines > _MAX_LINES:
            return
        if len(self._last_logged) >= _MAX_SUBJECTS:
            self._last_logged.clear()
        self._last_logged[message, subject] = now, 0
        more = f" (and {suppressed} times since the last such line)" if suppressed else ""
        self._logger.log(level, message + "%s", *arguments, more)

    def _begin_interval(self, now: float) -> None:
        if self._lines > _MAX_LINES:
            self._logger.warning("%d more lines like these were left out", self._lines - _MAX_LINES)
        self._interval_began_at, self._lines = now, 0
