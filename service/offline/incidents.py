"""Gaps, restarts, repetitions and unreadable messages in a recording."""

from __future__ import annotations

from collections import Counter

import msgspec

from service.events.statistics import EventStatistics

_MAX_LISTED = 100


class Incident(msgspec.Struct):
    line: int
    pod: str
    what: str


class Incidents:
    """Detects incidents from the change of the statistics with each message; lists the first ones and counts all."""

    def __init__(self, statistics: EventStatistics) -> None:
        self.listed: list[Incident] = []
        self.counts: Counter[str] = Counter()
        self._statistics = statistics
        self._lost = self._restarts = self._repeated = self._skipped = 0

    def update(self, line: int, pod: str) -> None:
        """Compares the statistics before and after the message of this line."""
        statistics = self._statistics
        skipped = statistics.skipped.total()
        if statistics.batches_lost > self._lost:
            self._add(line, pod, "gap", f"{statistics.batches_lost - self._lost} batches are missing before this one")
        if statistics.restarts > self._restarts:
            self._add(line, pod, "restart", "the engine restarted with an empty cache")
        if statistics.batches_repeated > self._repeated:
            self._add(line, pod, "repetition", "this batch was applied before")
        if skipped > self._skipped:
            self._add(line, pod, "unreadable", f"{skipped - self._skipped} of its events cannot be decoded")
        self._lost, self._restarts = statistics.batches_lost, statistics.restarts
        self._repeated, self._skipped = statistics.batches_repeated, skipped

    def _add(self, line: int, pod: str, kind: str, what: str) -> None:
        self.counts[kind] += 1
        if len(self.listed) < _MAX_LISTED:
            self.listed.append(Incident(line, pod, what))
