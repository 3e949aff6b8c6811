"""What went wrong in a recording: gaps, restarts, joins in the middle, messages that cannot be read."""

from __future__ import annotations

from collections import Counter

import msgspec

from service.events.statistics import EventStatistics

_MOST_LISTED = 100


class Incident(msgspec.Struct):
    """What happened at a line of the recording."""

    line: int
    pod: str
    what: str


class Incidents:
    """Reads them off the statistics of the events, message by message. Lists the first ones and counts them all."""

    def __init__(self, statistics: EventStatistics) -> None:
        self.listed: list[Incident] = []
        self.counts: Counter[str] = Counter()
        self._statistics = statistics
        self._lost = self._restarts = self._repeated = self._skipped = 0

    def look(self, line: int, pod: str) -> None:
        """Takes what the message of this line did."""
        statistics = self._statistics
        skipped = statistics.skipped.total()
        if statistics.batches_lost > self._lost:
            self._add(line, pod, "gap", f"{statistics.batches_lost - self._lost} batches are missing before it")
        if statistics.restarts > self._restarts:
            self._add(line, pod, "restart", "the engine restarted: its blocks are gone")
        if statistics.batches_repeated > self._repeated:
            self._add(line, pod, "repetition", "a batch that was applied before")
        if skipped > self._skipped:
            self._add(line, pod, "unreadable", f"{skipped - self._skipped} of its events cannot be read")
        self._lost, self._restarts = statistics.batches_lost, statistics.restarts
        self._repeated, self._skipped = statistics.batches_repeated, skipped

    def _add(self, line: int, pod: str, kind: str, what: str) -> None:
        self.counts[kind] += 1
        if len(self.listed) < _MOST_LISTED:
            self.listed.append(Incident(line, pod, what))
