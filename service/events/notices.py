"""Log lines at a bounded rate: what happens a thousand times a second is said once, with its number."""

from __future__ import annotations

import logging
from time import monotonic

_INTERVAL = 10.0
_MOST_SUBJECTS = 10_000
_MOST_LINES = 200


class Notices:
    """Logs each kind of notice about each subject at most once in ten seconds, and not too many in all."""

    def __init__(self, logger: logging.Logger) -> None:
        self._logger = logger
        self._said: dict[tuple[str, object], tuple[float, int]] = {}
        self._began_at = -_INTERVAL
        self._lines = 0

    def say(self, level: int, subject: object, message: str, *arguments: object) -> None:
        """Logs a line, or counts it towards the next one of its kind."""
        now = monotonic()
        said_at, unsaid = self._said.get((message, subject), (-_INTERVAL, 0))
        if now - said_at < _INTERVAL:
            self._said[message, subject] = said_at, unsaid + 1
            return
        if now - self._began_at >= _INTERVAL:
            self._begin(now)
        self._lines += 1
        if self._lines > _MOST_LINES:
            return
        if len(self._said) >= _MOST_SUBJECTS:
            self._said.clear()
        self._said[message, subject] = now, 0
        more = f" (and {unsaid} times since the last such line)" if unsaid else ""
        self._logger.log(level, message + "%s", *arguments, more)

    def _begin(self, now: float) -> None:
        """Another ten seconds: says how many lines the last ones had no room for."""
        if self._lines > _MOST_LINES:
            self._logger.warning("%d more lines like these were left out", self._lines - _MOST_LINES)
        self._began_at, self._lines = now, 0
