"""Requests that wait until a pod is below its limit: the shortest estimate first, with aging."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable
from heapq import heapify, heappop, heappush
from itertools import count
from time import monotonic
from typing import Final, NamedTuple

from service.routing.choice import Choice

_RETRY_SECONDS: Final = 0.25
"""Pods become available for other reasons, too, than that a request ends."""


class _Entry(NamedTuple):
    due: float
    number: int
    model: str | None
    choose: Callable[[], Choice | None]
    turn: asyncio.Future[Choice]


class Queue:
    """A bounded queue. A request's place is its time of arrival plus its estimate: later ones pass it only if they are
    shorter by more than it has waited.
    """

    def __init__(self, max_length: int, seconds: float) -> None:
        """No request waits longer than `seconds`; a length of 0 turns the queue off."""
        self._max_length = max_length
        self._seconds = seconds
        self._lines: dict[str | None, list[_Entry]] = {}
        """A heap for each model, also of entries whose client has left."""
        self._waiting: Counter[str | None] = Counter()
        """The entries of each model that wait."""
        self._numbers = count()
        self._served: asyncio.Handle | None = None

    def __len__(self) -> int:
        return self._waiting.total()

    @property
    def has_room(self) -> bool:
        return len(self) < self._max_length

    def waits(self, model: str | None) -> bool:
        """Whether a request for the model waits."""
        return model in self._waiting

    async def turn(self, model: str | None, estimate: float, choose: Callable[[], Choice | None]) -> Choice | None:
        """Waits until `choose` gives a choice; None after too long. `estimate` is in seconds."""
        loop = asyncio.get_running_loop()
        turn: asyncio.Future[Choice] = loop.create_future()
        entry = _Entry(loop.time() + estimate, next(self._numbers), model, choose, turn)
        heappush(self._lines.setdefault(model, []), entry)
        self._waiting[model] += 1
        self.wake()
        try:
            async with asyncio.timeout(self._seconds):
                return await asyncio.shield(turn)
        except TimeoutError:
            return turn.result() if turn.done() and not turn.cancelled() else None
        except asyncio.CancelledError:
            if turn.done() and not turn.cancelled():
                turn.result().reservation.end(monotonic())
            raise
        finally:
            if turn.cancel():
                self._ended(model)
                self._drop_ended(model)

    def wake(self) -> None:
        """Gives free places to those who wait, after the current callback."""
        if self._lines:
            if self._served is not None:
                self._served.cancel()
            self._served = asyncio.get_running_loop().call_soon(self.serve)

    def serve(self) -> None:
        """Gives free places to those who wait, at once."""
        if self._served is not None:
            self._served.cancel()
            self._served = None
        firsts = [line[0] for line in self._lines.values()]
        heapify(firsts)
        while firsts:
            entry = heappop(firsts)
            if not entry.turn.done():
                choice = entry.choose()
                if choice is None:
                    continue  # nor is there a place for another one of the model
                entry.turn.set_result(choice)
                self._ended(entry.model)
            line = self._lines[entry.model]
            heappop(line)
            if line:
                heappush(firsts, line[0])
            else:
                del self._lines[entry.model]
        if self._lines:
            self._served = asyncio.get_running_loop().call_later(_RETRY_SECONDS, self.serve)

    def _ended(self, model: str | None) -> None:
        """Notes that one of those who wait does so no longer."""
        self._waiting[model] -= 1
        if not self._waiting[model]:
            del self._waiting[model]

    def _drop_ended(self, model: str | None) -> None:
        """Drops the entries of those who have left once they are most of the line."""
        line = self._lines.get(model, [])
        if len(line) > 2 * self._waiting[model]:
            line[:] = [entry for entry in line if not entry.turn.done()]
            heapify(line)
            if not line:
                del self._lines[model]
