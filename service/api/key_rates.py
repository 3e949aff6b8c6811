"""Limits the requests per second of each API key."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from time import monotonic

from service.api.errors import ApiError

_OTHERS = "*"


class KeyRates:
    """A token bucket per key, which holds the requests of one second, at least one."""

    def __init__(self, rates: Mapping[str, float], clock: Callable[[], float] = monotonic) -> None:
        """`rates` are requests per second by the name of a key; `*` is the rate of each other key."""
        self._rates = rates
        self._clock = clock
        self._buckets: dict[str, tuple[float, float]] = {}
        """Requests left of a key, and when they were counted. Only names of known keys come here."""

    def would_take(self, name: str) -> bool:
        """Whether `take` would count a request without an error."""
        rate = self._rate(name)
        return rate is None or self._left(name, rate, self._clock()) >= 1

    def take(self, name: str) -> None:
        """Counts a request; raises ApiError 429 with the seconds after which the next is possible."""
        rate = self._rate(name)
        if rate is None:
            return
        now = self._clock()
        left = self._left(name, rate, now)
        if left < 1:
            self._buckets[name] = left, now
            raise ApiError(
                429,
                f"the API key {name!r} may send {rate:g} requests per second (API_KEY_RATES)",
                code="rate_limit_exceeded",
                headers={"Retry-After": str(math.ceil((1 - left) / rate))},
            )
        self._buckets[name] = left - 1, now

    def _rate(self, name: str) -> float | None:
        return self._rates.get(name) or self._rates.get(_OTHERS)

    def _left(self, name: str, rate: float, now: float) -> float:
        size = max(1.0, rate)
        left, counted_at = self._buckets.get(name, (size, now))
        return min(size, left + (now - counted_at) * rate)
