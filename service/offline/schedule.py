"""Advances an index to given moments of a recording."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Mapping

from service.events.recording import Recorded
from service.offline.feed import Decoded, Feed


class TooFarApart(Exception):
    """A moment requires holding back too many messages."""


class Schedule:
    """Applies messages up to moments that are given in order.

    Holds back up to `max_held` messages that were recorded before a moment but belong after it.
    """

    def __init__(self, messages: Iterator[Recorded], feed: Feed, max_held: int = 100_000) -> None:
        self._messages = messages
        self._feed = feed
        self._max_held = max_held
        self._held: deque[Decoded] = deque()
        self._read = 0

    def reach(self, before: Mapping[str, int]) -> bool:
        """Advances until the last message of each rank is number `before[rank]` (-1: none); False if it is missing.

        Other ranks are not held back. Raises TooFarApart.
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
        """Advances until `count` messages are applied; False if there are fewer, or more are already applied."""
        self._release()
        while self._read < count and (message := self._next()) is not None:
            self._feed.apply(message)
        return self._read == count

    def finish(self) -> None:
        self._release()
        while (message := self._next()) is not None:
            self._feed.apply(message)

    def _take(self, message: Decoded, before: Mapping[str, int], waiting: set[str]) -> None:
        if message.name in waiting or message.sequence > before.get(message.name, message.sequence):
            waiting.add(message.name)
            self._held.append(message)
            if len(self._held) > self._max_held:
                raise TooFarApart(f"more than {self._max_held} messages would be held back: sort the prompts by moment")
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
