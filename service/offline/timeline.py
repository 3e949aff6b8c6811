"""Event counts over time, in a bounded number of equal spans."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import NamedTuple

import msgspec

from service.index.base import RankBlocks

_MAX_SPANS = 480
_FIRST_WIDTH = 0.01


class Series(NamedTuple):
    """Key of block counts: a pod and a tier."""

    pod: str
    tier: str


class Span(msgspec.Struct):
    """Blocks stored, evicted and cleared since `start` (Unix seconds), and blocks held at the end of the span."""

    start: float
    stored: int = 0
    evicted: int = 0
    cleared: int = 0
    clears: int = 0
    held: dict[Series, int] | None = None


class Timeline:
    """Spans of equal width, which doubles at `_MAX_SPANS` spans, so that memory does not grow with the recording."""

    def __init__(self) -> None:
        self.width = _FIRST_WIDTH
        self.now = 0.0
        self._spans: list[Span] = []
        self._empty = Span(0.0)

    @property
    def span(self) -> Span:
        """The span of the current time, for counting."""
        return self._spans[-1] if self._spans else self._empty

    def advance(self, timestamp: float, ranks: Iterable[RankBlocks]) -> None:
        """Advances to a time; `ranks` are the blocks held until then; earlier times count as the current one."""
        self.now = max(timestamp, self.now)
        if not self._spans:
            self._spans.append(self._empty)
            self._empty.start = self.now
        if self.now < self._spans[-1].start + self.width:
            return
        self._spans[-1].held = held_blocks(ranks)
        first = self._spans[0].start
        while self.now >= first + _MAX_SPANS * self.width:
            self._double_width()
        index = int((self.now - first) / self.width)
        if first + index * self.width > self._spans[-1].start:
            self._spans.append(Span(first + index * self.width))

    def finish(self, ranks: Iterable[RankBlocks]) -> list[Span]:
        """All spans with events; the last one has the blocks held at the end."""
        if self._spans:
            self._spans[-1].held = held_blocks(ranks)
        return self._spans

    def _double_width(self) -> None:
        first, self.width = self._spans[0].start, self.width * 2
        merged: dict[int, Span] = {}
        for span in self._spans:
            index = int((span.start - first) / self.width + 1e-9)
            into = merged.get(index)
            if into is None:
                span.start = first + index * self.width
                merged[index] = span
            else:
                into.stored += span.stored
                into.evicted += span.evicted
                into.cleared += span.cleared
                into.clears += span.clears
                into.held = span.held
        self._spans = list(merged.values())


def held_blocks(ranks: Iterable[RankBlocks]) -> dict[Series, int]:
    """The blocks of each pod on each tier, summed over its ranks."""
    held: dict[Series, int] = {}
    for rank in ranks:
        for tier, count in rank.blocks_by_tier.items():
            if count:
                series = Series(rank.rank.pod, tier.name.lower())
                held[series] = held.get(series, 0) + count
    return held


def peak_by_series(spans: Iterable[Span]) -> Mapping[Series, int]:
    """The maximum of the blocks that each pod held on each tier at the end of a span."""
    peak: dict[Series, int] = {}
    for span in spans:
        for series, count in (span.held or {}).items():
            peak[series] = max(peak.get(series, 0), count)
    return peak
