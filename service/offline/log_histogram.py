"""Quantiles of durations in constant memory."""

from __future__ import annotations

import math

_SMALLEST = 0.001
_STEPS_PER_TENFOLD = 24
_TENFOLDS = 10
_BOUNDS = tuple(_SMALLEST * 10 ** (step / _STEPS_PER_TENFOLD) for step in range(_TENFOLDS * _STEPS_PER_TENFOLD + 1))


class LogHistogram:
    """Durations in buckets with bounds that grow by 10 %, from one millisecond to ten million seconds."""

    def __init__(self) -> None:
        self.count = 0
        self.total = 0.0
        self._counts = [0] * len(_BOUNDS)

    def add(self, seconds: float) -> None:
        step = math.ceil(math.log10(max(seconds, _SMALLEST) / _SMALLEST) * _STEPS_PER_TENFOLD - 1e-9)
        self._counts[min(max(step, 0), len(_BOUNDS) - 1)] += 1
        self.count += 1
        self.total += seconds

    @property
    def mean(self) -> float | None:
        return self.total / self.count if self.count else None

    def quantile(self, share: float) -> float | None:
        """An upper bound of this quantile, at most 10 % too high; None without durations."""
        seen = 0
        for bound, count in zip(_BOUNDS, self._counts, strict=True):
            seen += count
            if count and seen >= share * self.count:
                return bound
        return None

    def histogram(self) -> list[tuple[float, int]]:
        """The upper bound and the count of each non-empty bucket."""
        return [(bound, count) for bound, count in zip(_BOUNDS, self._counts, strict=True) if count]
