"""The timeline of an analysis, resampled to equal steps for charts."""

from __future__ import annotations

from collections.abc import Sequence

from service.offline.analysis import Analysis
from service.offline.timeline import Series


def held_over_time(analysis: Analysis, series: Series, steps: int) -> list[float]:
    """Blocks of a pod on a tier: the maximum in each step; steps without events repeat the previous value."""
    peaks: list[float | None] = [None] * steps
    last: list[float] = [0.0] * steps
    for step, span in zip(_steps(analysis, steps), analysis.timeline, strict=True):
        last[step] = float((span.held or {}).get(series, 0))
        peaks[step] = max(peaks[step] or 0.0, last[step])
    filled, previous = [], 0.0
    for step, value in enumerate(peaks):
        filled.append(previous if value is None else value)
        previous = previous if value is None else last[step]
    return filled


def rate_over_time(analysis: Analysis, counts: Sequence[int], steps: int) -> list[float]:
    """Rates per second in each step, from the counts of the spans."""
    sums = [0] * steps
    for step, count in zip(_steps(analysis, steps), counts, strict=True):
        sums[step] += count
    return [total / _duration(analysis) * steps for total in sums]


def _steps(analysis: Analysis, steps: int) -> list[int]:
    """The index of the step in which each span starts."""
    spans = analysis.timeline
    return [min(int((span.start - spans[0].start) / _duration(analysis) * steps), steps - 1) for span in spans]


def _duration(analysis: Analysis) -> float:
    return max(analysis.seconds, analysis.span_seconds)
