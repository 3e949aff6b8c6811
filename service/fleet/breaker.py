"""The circuit breaker of a pod: stops requests to a failing pod, and tests with one request whether it works again."""

from __future__ import annotations

from collections.abc import Callable
from enum import Enum
from time import monotonic

FIRST_BACKOFF = 0.5
MAX_BACKOFF = 10.0
MAX_FAILURES = 3
"""Failures in a row that open the breaker; a refused connection opens it at once."""


class State(Enum):
    """`OPEN` until its backoff ends, then `HALF_OPEN`: one request decides."""

    CLOSED = "closed"
    OPEN = "open"
    HALF_OPEN = "half_open"


class CircuitBreaker:
    """Closed until failures; each failed attempt doubles the backoff, an answer closes it. Times are in seconds."""

    def __init__(self, clock: Callable[[], float] = monotonic) -> None:
        self.reason: str | None = None
        self.on_open: Callable[[], None] | None = None
        """Called each time that it opens."""
        self._clock = clock
        self._failures = 0
        self._backoff = 0.0
        self._until = 0.0
        self._probing = False
        self._refused = False

    @property
    def state(self) -> State:
        if not self._backoff:
            return State.CLOSED
        return State.OPEN if self._clock() < self._until else State.HALF_OPEN

    def allows(self) -> bool:
        state = self.state
        return state is State.CLOSED or (state is State.HALF_OPEN and not self._probing)

    def started(self) -> None:
        """Notes that a request is sent; in the half-open state it is the only one until it ends."""
        self._probing = self.state is State.HALF_OPEN

    def answering(self) -> None:
        """Notes that an answer has begun: closes the breaker, since the answer may take minutes.

        Failures before it still count, so that another one opens it again, until an answer is complete.
        """
        self._backoff = 0.0
        self._probing = False

    def succeeded(self) -> None:
        """Notes an answered request: closes the breaker."""
        self.reason = None
        self._refused = False
        self._failures = 0
        self._backoff = 0.0
        self._probing = False

    def reachable(self) -> None:
        """Notes an answered health check: closes the breaker if refused connections had opened it."""
        if self._refused:
            self.succeeded()

    def abandoned(self) -> None:
        """Notes a request without a result: its client left, or the engine answered with an error of its own."""
        self._probing = False

    def failed(self, reason: str, *, refused: bool = False) -> None:
        """Notes a failed request; `refused` means that the connection could not be opened."""
        self.reason = reason
        self._refused = refused
        self._failures += 1
        self._probing = False
        if refused or self._backoff or self._failures >= MAX_FAILURES:
            self._backoff = min(self._backoff * 2 or FIRST_BACKOFF, MAX_BACKOFF)
            self._until = self._clock() + self._backoff
            if self.on_open is not None:
                self.on_open()

    @property
    def retry_after(self) -> float:
        """Seconds until the next request is allowed."""
        return max(0.0, self._until - self._clock()) if self._backoff else 0.0
