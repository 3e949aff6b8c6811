"""Requests that wait until a pod is below its limit: the shortest estimate first, with aging."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from heapq import heappop, heappush
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
        self._heap: list[_Entry] = []
        self._numbers = count()
        self._served: asyncio.Handle | None = None

    def __len__(self) -> int:
        return sum(not entry.turn.done() for entry in self._heap)

    @property
    def has_room(self) -> bool:
        return len(self) < self._max_length

    def waits(self, model: str | None) -> bool:
        """Whether a request for the model waits."""
        return any(entry.model == model and not entry.turn.done() for entry in self._heap)

    async def turn(self, model: str | None, estimate: float, choose: Callable[[], Choice | None]) -> Choice | None:
        """Waits until `choose` gives a choice; None after too long. `estimate` is in seconds."""
        loop = asyncio.get_running_loop()
        turn: asyncio.Future[Choice] = loop.create_future()
        heappush(self._heap, _Entry(loop.time() + estimate, next(self._numbers), model, choose, turn))
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
            turn.cancel()

    def wake(self) -> None:
        """Gives free places to those who wait, after the current callback."""
        if self._heap:
            if self._served is not None:
                self._served.cancel()
            self._served = asyncio.get_running_loop().call_soon(self._serve)

    def _serve(self) -> None:
        self._served = None
        left: list[_Entry] = []
        full: set[str | None] = set()
        while self._heap:
            entry = heappop(self._heap)
            if entry.turn.done():
                continue
            choice = entry.choose() if entry.model not in full else None
            if choice is None:
                full.add(entry.model)
                left.append(entry)
            else:
                entry.turn.set_result(choice)
        self._heap = left  # in order, so that it is a heap
        if left:
            self._served = asyncio.get_running_loop().call_later(_RETRY_SECONDS, self._serve)
