"""The circuit breaker of a pod: no requests to a pod that fails, and one at a time to see whether it is back."""

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
    """Closed until failures; each failed attempt doubles the backoff, a success closes it. Times are in seconds."""

    def __init__(self, clock: Callable[[], float] = monotonic) -> None:
        self.reason: str | None = None
        self._clock = clock
        self._failures = 0
        self._backoff = 0.0
        self._until = 0.0
        self._probing = False
        self._refused = False

    @property
    def state(self) -> State:
        """The current state."""
        if not self._backoff:
            return State.CLOSED
        return State.OPEN if self._clock() < self._until else State.HALF_OPEN

    def allows(self) -> bool:
        """Whether a request may be sent."""
        state = self.state
        return state is State.CLOSED or (state is State.HALF_OPEN and not self._probing)

    def started(self) -> None:
        """A request is sent; in the half-open state, no other is allowed until it ends."""
        self._probing = self.state is State.HALF_OPEN

    def succeeded(self) -> None:
        """A request was answered: closes the breaker."""
        self.reason = None
        self._refused = False
        self._failures = 0
        self._backoff = 0.0
        self._probing = False

    def reachable(self) -> None:
        """A health check was answered: closes the breaker if refused connections had opened it."""
        if self._refused:
            self.succeeded()

    def abandoned(self) -> None:
        """A request ended without telling whether the pod works, because its client left."""
        self._probing = False

    def failed(self, reason: str, *, refused: bool = False) -> None:
        """A request failed; `refused` is a connection that could not be opened."""
        self.reason = reason
        self._refused = refused
        self._failures += 1
        self._probing = False
        if refused or self._backoff or self._failures >= MAX_FAILURES:
            self._backoff = min(self._backoff * 2 or FIRST_BACKOFF, MAX_BACKOFF)
            self._until = self._clock() + self._backoff

    @property
    def retry_after(self) -> float:
        """Seconds until the next request may be sent."""
        return max(0.0, self._until - self._clock()) if self._backoff else 0.0
