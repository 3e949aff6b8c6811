"""Whether the messages of an endpoint are read one by one, or collected for a moment."""

from __future__ import annotations

from collections.abc import Callable
from time import monotonic

_RATE = 2_000.0
"""Messages a second."""
_BURST = 32.0
"""Messages beyond that rate."""


class Pace:
    """A leaky bucket of messages: it is full while they come so fast that they are better collected.

    To wake up costs as much as ten messages. An engine publishes a message per step, at most a few hundred a second.
    """

    __slots__ = ("_clock", "_level", "_read_at")

    def __init__(self, clock: Callable[[], float] = monotonic) -> None:
        self._clock = clock
        self._level = 0.0
        self._read_at = clock()

    def is_fast(self, count: int) -> bool:
        """Whether to collect, after so many messages were read."""
        now = self._clock()
        left = self._level - (now - self._read_at) * _RATE
        self._level = min(max(left, 0.0) + count, _BURST)
        self._read_at = now
        return self._level == _BURST
