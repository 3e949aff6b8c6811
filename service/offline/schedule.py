"""Brings an index to a moment of a recording."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Mapping

from service.events.recording import Recorded
from service.offline.feed import Feed, Read

_MOST_HELD = 100_000


class TooFarApart(Exception):
    """The moments asked for would need too much of the recording to be held back."""


class Schedule:
    """Applies messages up to moments that are asked for in order.

    Messages of a rank that belong after a moment, but were recorded before another's that belong before it, are held
    back until they are due.
    """

    def __init__(self, messages: Iterator[Recorded], feed: Feed) -> None:
        self._messages = messages
        self._feed = feed
        self._held: deque[Read] = deque()
        self._read = 0

    def reach(self, before: Mapping[str, int]) -> bool:
        """Goes on until the last message of each rank is the one numbered (-1: none); False if that is no moment of it.

        Ranks that are not named are not held back. Raises TooFarApart.
        """
        waiting: set[str] = set()
        for _ in range(len(self._held)):
            self._take(self._held.popleft(), before, waiting)
        while any(self._last(pod) < number for pod, number in before.items()):
            message = self._next()
            if message is None:
                break
            self._take(self._feed.read(message), before, waiting)
        return all(self._last(pod) == number for pod, number in before.items())

    def reach_message(self, count: int) -> bool:
        """Goes on until so many messages were applied; False if there are not so many, or were more already."""
        self._release()
        while self._read < count and (message := self._next()) is not None:
            self._feed.apply(message)
        return self._read == count

    def finish(self) -> None:
        """Applies all the rest."""
        self._release()
        while (message := self._next()) is not None:
            self._feed.apply(message)

    def _take(self, message: Read, before: Mapping[str, int], waiting: set[str]) -> None:
        if message.name in waiting or message.sequence > before.get(message.name, message.sequence):
            waiting.add(message.name)
            self._held.append(message)
            if len(self._held) > _MOST_HELD:
                raise TooFarApart(
                    f"{_MOST_HELD} messages would have to be held back; give prompts in the events' order"
                )
        else:
            self._feed.apply(message)

    def _release(self) -> None:
        while self._held:
            self._feed.apply(self._held.popleft())

    def _next(self) -> Recorded | None:
        message = next(self._messages, None)
        self._read += message is not None
        return message

    def _last(self, pod: str) -> int:
        return self._feed.last_sequences.get(pod, -1)
