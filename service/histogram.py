"""Counts by bucket, in Prometheus' form."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from time import time
from typing import NamedTuple


class Exemplar(NamedTuple):
    """The trace of one observation, its value, and its Unix time."""

    trace_id: str
    value: float
    at: float


class Histogram:
    """Counts observations by bucket; `counts[i]` is for values up to `bounds[i]`, the last one for values above all
    bounds.
    """

    __slots__ = ("bounds", "counts", "exemplars", "total")

    def __init__(self, bounds: Sequence[float]) -> None:
        self.bounds = tuple(bounds)
        self.counts = [0] * (len(self.bounds) + 1)
        self.total = 0.0
        self.exemplars: dict[int, Exemplar] = {}
        """The last one of each bucket, by its number."""

    def observe_all(self, values: Sequence[float]) -> None:
        """Counts several values at once."""
        if len(values) == 1:
            self.observe(values[0])
            return
        ascending = sorted(values)
        start = 0
        for bucket, bound in enumerate(self.bounds):
            end = bisect_right(ascending, bound, start)
            self.counts[bucket] += end - start
            start = end
        self.counts[-1] += len(ascending) - start
        self.total += sum(ascending)

    def observe(self, value: float, trace_id: str | None = None) -> None:
        """Counts a value; `trace_id` names its trace, if that is recorded."""
        bucket = bisect_left(self.bounds, value)
        self.counts[bucket] += 1
        self.total += value
        if trace_id is not None:
            self.exemplars[bucket] = Exemplar(trace_id, value, time())
