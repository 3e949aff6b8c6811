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

    def take(self, name: str) -> None:
        """Counts a request; raises ApiError 429 with the seconds after which the next is possible."""
        rate = self._rates.get(name) or self._rates.get(_OTHERS)
        if rate is None:
            return
        now, size = self._clock(), max(1.0, rate)
        left, counted_at = self._buckets.get(name, (size, now))
        left = min(size, left + (now - counted_at) * rate)
        if left < 1:
            self._buckets[name] = left, now
            raise ApiError(
                429,
                f"the API key {name!r} may send {rate:g} requests per second (API_KEY_RATES)",
                code="rate_limit_exceeded",
                headers={"Retry-After": str(math.ceil((1 - left) / rate))},
            )
        self._buckets[name] = left - 1, now
