"""The measurements of each time window, and the check for drift."""

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
_COSTLIER = 2.0


@dataclass(frozen=True, slots=True)
class Window:
    """Measurements of one window that ended after `seconds`; the latencies are those of scores.

    `cpu_ms` is the service's CPU time per score and batch: a busy machine makes latencies long, but not this.
    """

    seconds: float
    memory_mb: float
    descriptors: int
    scores: int
    p50_ms: float
    p99_ms: float
    batches: int
    cpu_ms: float

    @classmethod
    def of(
        cls, seconds: float, memory: int, descriptors: int, times: Sequence[float], batches: int, *, cpu: float
    ) -> Window:
        """`memory` in bytes, `times` and `cpu`, the CPU time of the window, in seconds."""
        ordered = sorted(times) or [0.0]
        p50, p99 = (1000 * ordered[int(part * (len(ordered) - 1))] for part in (0.5, 0.99))
        cpu_ms = 1000 * cpu / max(1, len(times) + batches)
        return cls(seconds, memory / _MEGABYTE, descriptors, len(times), p50, p99, batches, cpu_ms)

    def line(self) -> str:
        return (
            f"{self.seconds:8.0f}{self.memory_mb:13.1f}{self.descriptors:13}{self.scores:13,}"
            f"{self.p50_ms:13.2f}{self.p99_ms:13.2f}{self.batches:13,}{self.cpu_ms:13.3f}"
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
    before, after = medians("cpu_ms")
    if after > before * _COSTLIER:
        found.append(f"the CPU time of a score or batch grew from {before:.2f} to {after:.2f} ms")
    return found
