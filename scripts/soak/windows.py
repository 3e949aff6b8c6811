"""What is measured in each window of time, and whether it drifts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median

_MEGABYTE = 1e6
_GROWTH_MB = 30.0
"""Memory that may be more in the last quarter: allocators keep what a burst took."""
_GROWTH = 1.15
_DESCRIPTORS = 40
"""Connections of slow and leaving clients come and go."""
_SLOWER = 3.0
_SLOWER_MS = 5.0


@dataclass(frozen=True, slots=True)
class Window:
    """Measurements of one window that ended after `seconds`; the latencies are those of scores."""

    seconds: float
    memory_mb: float
    descriptors: int
    scores: int
    p50_ms: float
    p99_ms: float
    batches: int

    @classmethod
    def of(cls, seconds: float, memory: int, descriptors: int, times: Sequence[float], batches: int) -> Window:
        """`memory` in bytes, `times` in seconds."""
        ordered = sorted(times) or [0.0]
        p50, p99 = (1000 * ordered[int(part * (len(ordered) - 1))] for part in (0.5, 0.99))
        return cls(seconds, memory / _MEGABYTE, descriptors, len(times), p50, p99, batches)

    def line(self) -> str:
        return (
            f"{self.seconds:8.0f}{self.memory_mb:13.1f}{self.descriptors:13}{self.scores:13,}"
            f"{self.p50_ms:13.2f}{self.p99_ms:13.2f}{self.batches:13,}"
        )


def drifts(windows: Sequence[Window]) -> list[str]:
    """What grew from the second quarter, when caches are full, to the last one; medians, so that one burst is none."""
    quarter = len(windows) // 4
    if not quarter:
        return []
    early, late = windows[quarter : 2 * quarter], windows[-quarter:]

    def medians(name: str) -> tuple[float, float]:
        return median(getattr(one, name) for one in early), median(getattr(one, name) for one in late)

    found = []
    before, after = medians("memory_mb")
    if after > before * _GROWTH + _GROWTH_MB:
        found.append(f"memory grew from {before:.0f} to {after:.0f} MB")
    before, after = medians("descriptors")
    if after > before + _DESCRIPTORS:
        found.append(f"descriptors grew from {before:.0f} to {after:.0f}")
    before, after = medians("p50_ms")
    if after > before * _SLOWER + _SLOWER_MS:
        found.append(f"the median latency grew from {before:.1f} to {after:.1f} ms")
    return found
