"""Counts HTTP requests as plain numbers that the metrics read at each scrape."""

from __future__ import annotations

import asyncio
from collections import Counter, defaultdict
from time import monotonic
from typing import NamedTuple

import msgspec

from service.histogram import Histogram


class RequestKind(NamedTuple):
    """The metric labels of an answered request."""

    method: str
    route: str
    status: int


def _seconds() -> Histogram:
    return Histogram((0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10))


class Traffic(msgspec.Struct):
    """The requests since the start."""

    in_flight: int = 0
    is_ending: bool = False
    """The service is stopping: what is in flight is answered, and no connection goes on."""
    surplus: int = 0
    """Connections that end with their next answer, so that their clients connect anew, to another worker."""
    streams: int = 0
    """Streams of events that are being sent."""
    streams_of: Counter[str] = msgspec.field(default_factory=Counter)
    """Streams by client: a peer address, or an API key."""
    answered: Counter[RequestKind] = msgspec.field(default_factory=Counter)
    seconds: defaultdict[str, Histogram] = msgspec.field(default_factory=lambda: defaultdict(_seconds))
    """Seconds from the headers to the answer, by route."""
    last_connection: float = 0.0
    """When the last connection was made, on the clock of `monotonic`."""
    _unanswered: set[object] = msgspec.field(default_factory=set)
    """Connections that had no answer yet."""
    _ending: set[object] = msgspec.field(default_factory=set)
    """Connections of the surplus that are still open, and end with the answer that they wait for."""
    _idle: asyncio.Event = msgspec.field(default_factory=asyncio.Event)

    def connected(self, connection: object) -> None:
        self._unanswered.add(connection)
        self.last_connection = monotonic()

    def answered_on(self, connection: object) -> None:
        """To be called when a connection had an answer, or begins one that has no end."""
        if connection in self._unanswered:
            self._unanswered.remove(connection)
            if not self._unanswered:
                self._idle.set()

    def disconnected(self, connection: object) -> None:
        self._ending.discard(connection)
        self.answered_on(connection)

    def end_connections(self, count: int) -> None:
        """Ends so many connections with their next answers; those that are ending already count."""
        self.surplus = max(0, count - len(self._ending))

    def ends_connection(self, connection: object) -> bool:
        """Whether a connection ends with the answer that is next; to be called once for each."""
        if self.is_ending or not self.surplus:
            return self.is_ending
        self.surplus -= 1
        self._ending.add(connection)
        return True

    def begin(self) -> None:
        self.in_flight += 1

    def end(self) -> None:
        self.in_flight -= 1
        if not self.in_flight:
            self._idle.set()

    async def wait_silent(self) -> None:
        """Waits until every connection had an answer, since a request may be on its way that is not counted yet."""
        while self._unanswered:
            self._idle.clear()
            await self._idle.wait()

    async def wait_idle(self) -> None:
        while self.in_flight:
            self._idle.clear()
            await self._idle.wait()

    def count(self, kind: RequestKind, seconds: float, trace_id: str | None = None) -> None:
        """Counts an answered request; `trace_id` names its trace, if that is recorded."""
        self.answered[kind] += 1
        self.seconds[kind.route].observe(seconds, trace_id)
