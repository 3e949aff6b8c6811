"""Counters of the gateway, read by the metrics when they are scraped."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

import msgspec


class GatewayStatistics(msgspec.Struct):
    """Total retries; requests that wait; per pod: failed attempts by kind, refusals by status, broken streams."""

    retries: int = 0
    queued: int = 0
    failures: Counter[tuple[str, str]] = msgspec.field(default_factory=Counter)
    refusals: Counter[tuple[str, int]] = msgspec.field(default_factory=Counter)
    broken_streams: Counter[str] = msgspec.field(default_factory=Counter)

    @contextmanager
    def queueing(self) -> Iterator[None]:
        """Counts a request that waits for a pod."""
        self.queued += 1
        try:
            yield
        finally:
            self.queued -= 1

    def forget(self, pod: str) -> None:
        """Drops the counters of a removed pod."""
        for counter in (self.failures, self.refusals):
            for key in [key for key in counter if key[0] == pod]:
                del counter[key]
        del self.broken_streams[pod]
